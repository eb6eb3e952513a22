-- ARGV: now, scope keys (JSON), and the birth, version and count of the trail that the client has (0: none).
-- Returns { birth, version, count, loop state, { model, warm prefix, ... }, { new steps }, { accounts } }.
expire(ARGV[1])
local head = redis.call("HMGET", BASE, "b", "v", "n", "l")
local birth, version, count = head[1] or "0", head[2] or "0", tonumber(head[3] or "0")
local warm, steps, accounts = {}, {}, {}
if birth ~= ARGV[3] or version ~= ARGV[4] then
  local all = redis.call("HGETALL", BASE)
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == "w:" then
      warm[#warm + 1] = string.sub(all[i], 3)
      warm[#warm + 1] = all[i + 1]
    end
  end
  local known = birth == ARGV[3] and tonumber(ARGV[5]) or 0
  if count > known then
    steps = redis.call("LRANGE", STEPS, known - count, -1)
  end
end
for i, key in ipairs(cjson.decode(ARGV[2])) do
  accounts[i] = shown(load_account(key))
end
return { birth, version, count, head[4] or "", warm, steps, accounts }
