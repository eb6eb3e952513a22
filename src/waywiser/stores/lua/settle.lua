-- ARGV: a settlement (JSON) { id, kind, used, now, ttl, birth, scopes = { key... }, steps, receipts }, then its blobs:
-- step, model and warm prefix, loop state, the field of the report, receipt's id and receipt, refusal's field and reason
-- (empty: none).
-- Returns { 1 if it was not settled before, birth, version, count, { accounts } }.
local settlement = cjson.decode(ARGV[1])
local step, model, warm, loop, spend = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local now = string.format("%.17g", settlement.now)
local rows = {}
if redis.call("ZSCORE", SETTLED, settlement.id) then
  for index, key in ipairs(settlement.scopes) do
    rows[index] = shown(load_account(key))
  end
  local head = redis.call("HMGET", BASE, "b", "v", "n")
  return { 0, head[1] or "0", head[2] or "0", head[3] or "0", rows }
end
redis.call("ZADD", SETTLED, now, settlement.id)
redis.call("ZREMRANGEBYRANK", SETTLED, 0, -1 - SETTLED_KEPT)
local hold = take_hold(settlement.id)
local held_in = {}
for _, key in ipairs(hold and hold.p or {}) do
  held_in[key] = true
end
for index, key in ipairs(settlement.scopes) do
  local account = load_account(key)
  local kind = kind_of(account, settlement.kind)
  for i = 1, 4 do
    account.s[i] = account.s[i] + settlement.used[i]
    if held_in[key] then
      account.h[i] = account.h[i] - hold.a[i]
    end
  end
  kind[1] = kind[1] + settlement.used[1]
  if held_in[key] then
    kind[2] = kind[2] - hold.a[1]
  end
  account.t = account.t or settlement.now
  save_account(key, account)
  rows[index] = shown(account)
end
redis.call("HSETNX", BASE, "b", settlement.birth)
redis.call("HSETNX", BASE, "id", settlement.session)
redis.call("HSET", BASE, "at", now)
local changed = false
if step ~= "" then
  redis.call("RPUSH", STEPS, step)
  redis.call("LTRIM", STEPS, -settlement.steps, -1)
  redis.call("HINCRBY", BASE, "n", 1)
  changed = true
end
if warm ~= "" then
  redis.call("HSET", BASE, "w:" .. model, warm)
  changed = true
end
if loop ~= "" then
  redis.call("HSET", BASE, "l", loop)
  changed = true
end
if changed then
  redis.call("HINCRBY", BASE, "v", 1)
end
if spend ~= "" then
  for i, name in ipairs({ "n", "t", "l", "c" }) do
    if settlement.used[i] ~= 0 then
      redis.call("HINCRBY", SPENDS, name .. spend, whole(settlement.used[i]))
    end
  end
end
if ARGV[7] ~= "" then
  keep_receipt(ARGV[7], ARGV[8], ARGV[9], ARGV[10], now, settlement.receipts)
end
keep_alive(settlement.ttl)
local head = redis.call("HMGET", BASE, "b", "v", "n")
return { 1, head[1] or "0", head[2] or "0", head[3] or "0", rows }
