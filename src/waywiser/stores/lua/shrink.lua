-- ARGV: scope key, news of the other slot (JSON), now, ttl. Gives back what the session neither spent nor holds of its allotment.
-- Returns the account, the returns that are not known to have arrived among it.
expire(ARGV[3])
local account = load_account(ARGV[1])
trade(account, cjson.decode(ARGV[2]))
local idle, any = {}, false
for i = 1, 4 do
  idle[i] = math.max(account.A[i] - account.s[i] - account.h[i], 0)
  account.A[i] = account.A[i] - idle[i]
  any = any or idle[i] > 0
end
if any then
  account.q = account.q + 1
  table.insert(account.u, { account.q, idle })
end
save_account(ARGV[1], account)
keep_alive(ARGV[4])
return shown(account)
