-- ARGV: scope key, amounts (JSON), ttl. Returns the account.
local account = load_account(ARGV[1])
for i, more in ipairs(cjson.decode(ARGV[2])) do
  account.g[i] = account.g[i] + more
end
save_account(ARGV[1], account)
keep_alive(ARGV[3])
return shown(account)
