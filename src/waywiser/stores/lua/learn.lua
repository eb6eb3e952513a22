-- KEYS: costs of a policy (hash). ARGV: ttl, then field, what the worker read, what it makes of it; and so on.
-- Writes those that nobody has changed meanwhile; returns the fields it wrote.
local written = {}
for i = 2, #ARGV, 3 do
  if (redis.call("HGET", KEYS[1], ARGV[i]) or "") == ARGV[i + 1] then
    redis.call("HSET", KEYS[1], ARGV[i], ARGV[i + 2])
    written[#written + 1] = ARGV[i]
  end
end
redis.call("EXPIRE", KEYS[1], ARGV[1])
return written
