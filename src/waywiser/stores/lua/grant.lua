-- ARGV: scope key, amounts (JSON), ttl, a name under which it counts once (empty: it has none), now. Returns the account.
local account = load_account(ARGV[1])
if ARGV[4] == "" or not redis.call("ZSCORE", SETTLED, ARGV[4]) then
  for i, more in ipairs(cjson.decode(ARGV[2])) do
    account.g[i] = (account.g[i] or 0) + more
  end
  save_account(ARGV[1], account)
  if ARGV[4] ~= "" then
    redis.call("ZADD", SETTLED, ARGV[5], ARGV[4])
  end
end
keep_alive(ARGV[3])
return shown(account)
