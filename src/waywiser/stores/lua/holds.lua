-- ARGV: now. Returns the live holds: { id, { path }, kind, { amounts }, expires, ... }.
local rows = {}
for _, id in ipairs(redis.call("ZRANGEBYSCORE", EXPIRIES, "(" .. ARGV[1], "+inf")) do
  local hold = cmsgpack.unpack(redis.call("HGET", BASE, "h:" .. id))
  local amounts = { whole(hold.a[1]), whole(hold.a[2]), whole(hold.a[3]), whole(hold.a[4]) }
  for _, value in ipairs({ id, hold.p, hold.k, amounts, string.format("%.17g", hold.e) }) do
    rows[#rows + 1] = value
  end
end
return rows
