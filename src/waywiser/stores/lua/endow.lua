-- The same slot as `allot`. ARGV: amounts (JSON), ttl, a name under which it counts once (empty: it has none).
-- Adds to what all sessions together may use.
local blob = redis.call("HGET", KEYS[1], "T")
local total = blob and cmsgpack.unpack(blob) or { A = { 0, 0, 0, 0 }, S = { 0, 0, 0, 0 }, g = { 0, 0, 0, 0 } }
if ARGV[3] == "" or redis.call("HSETNX", KEYS[1], "o:" .. ARGV[3], "") == 1 then
  for i, more in ipairs(cjson.decode(ARGV[1])) do
    total.g[i] = total.g[i] + more
  end
end
redis.call("HSET", KEYS[1], "T", cmsgpack.pack(total))
redis.call("EXPIRE", KEYS[1], ARGV[2])
local rows = {}
for _, amounts in ipairs({ total.A, total.S, total.g }) do
  for i = 1, 4 do
    rows[#rows + 1] = string.format("%.0f", amounts[i])
  end
end
return rows
