-- KEYS: the health of the models (hash). ARGV: ttl, then field, what the worker read, what it makes of it; and so on.
-- Writes those that nobody has changed meanwhile; returns what each of them is now.
local now = {}
for i = 2, #ARGV, 3 do
  local is = redis.call("HGET", KEYS[1], ARGV[i]) or ""
  if is == ARGV[i + 1] then
    is = ARGV[i + 2]
    redis.call("HSET", KEYS[1], ARGV[i], is)
  end
  now[#now + 1] = is
end
redis.call("EXPIRE", KEYS[1], ARGV[1])
return now
