-- ARGV: a claim (JSON) { id, kind, wanted, least, now, expires, scopes, ttl, final }. A scope is
-- { key, limits or false, { { kind, nanos, calls } ... } kept for that kind, news of another slot or false }: where there are
-- news, the limit is kept elsewhere and the account's allotment stands for it.
-- Returns { "hold", amounts, expires and path if it was live already, accounts that have an allotment }, { "settled" },
-- { "short", scope, what, limit, left, held by others, retry at, kept }, or
-- { "allot", scope, what is lacking for `wanted`, what for `least`, account }: ask the other slot, then again.
local claim = cjson.decode(ARGV[1])
local now = claim.now
expire(string.format("%.17g", now))
local blob = redis.call("HGET", BASE, "h:" .. claim.id)
if blob then
  local hold = cmsgpack.unpack(blob)
  local amounts = string.format("%.0f %.0f %.0f %.0f", hold.a[1], hold.a[2], hold.a[3], hold.a[4])
  return { "hold", amounts, string.format("%.17g", hold.e), hold.p, {} }
end
if redis.call("ZSCORE", SETTLED, claim.id) then
  return { "settled" }
end

-- What the keeps for other kinds leave of the first amount, money, and of the third, model calls.
local function kept_for_others(account, keeps, i, idle)
  local total = 0
  for _, keep in ipairs(keeps) do
    if keep[1] ~= claim.kind and i == 3 then
      total = total + keep[3]
    elseif keep[1] ~= claim.kind and i == 1 then
      local kind = account.k[keep[1]] or { 0, 0 }
      total = total + math.max(keep[2] - kind[1] - (idle and 0 or kind[2]), 0)
    end
  end
  return total
end

local function first_expiry(key)
  for _, id in ipairs(redis.call("ZRANGE", EXPIRIES, 0, -1)) do
    local hold = cmsgpack.unpack(redis.call("HGET", BASE, "h:" .. id))
    for _, of in ipairs(hold.p) do
      if of == key then
        return string.format("%.17g", hold.e)
      end
    end
  end
  return "0"
end

local accounts, waiting, asked = {}, nil, nil
local cut = { claim.wanted[1], claim.wanted[2], claim.wanted[3], claim.wanted[4] }
for index, scope in ipairs(claim.scopes) do
  local key, limits, keeps, news = scope[1], scope[2], scope[3], scope[4]
  local account = load_account(key)
  accounts[index] = account
  if news then
    trade(account, news)
    save_account(key, account)
  elseif limits[5] and account.t and now - account.t >= limits[5] + (account.g[5] or 0) then
    local limit = limits[5] + (account.g[5] or 0)
    local over = string.format("%.17g", now - account.t - limit)
    return { "short", index, 5, string.format("%.17g", limit), "0", "0", "0", "0", over }
  end
  if not news then
    local here = nil
    for i = 1, 4 do
      if limits[i] then
        local kept = kept_for_others(account, keeps, i, false)
        local ceiling = limits[i] + account.g[i] - account.s[i]
        local room = ceiling - account.h[i] - kept
        if cut[i] > room then
          room = math.max(room, 0)
          if room < claim.least[i] then
            local kept_idle = kept_for_others(account, keeps, i, true)
            local others = math.max(ceiling - kept_idle, 0) - room
            local lack = { "short", index, i, whole(limits[i] + account.g[i]), whole(room), whole(others), "0", whole(kept) }
            if others <= 0 or room + others < claim.least[i] then
              return lack
            end
            here = here or lack
          end
          cut[i] = room
        end
      end
    end
    waiting = waiting or here
  end
end
if waiting then
  waiting[7] = first_expiry(claim.scopes[waiting[2]][1])
  return waiting
end

for index, scope in ipairs(claim.scopes) do
  local limits, account = scope[2], accounts[index]
  if scope[4] then
    local lacking, missing, least = false, { "0", "0", "0", "0" }, { "0", "0", "0", "0" }
    local fits = true
    local room = {}
    for i = 1, 4 do
      room[i] = account.A[i] - account.s[i] - account.h[i]
      if limits[i] and cut[i] > room[i] and cut[i] > 0 then
        lacking = true
        missing[i] = whole(cut[i] - room[i])
        least[i] = whole(math.max(claim.least[i] - room[i], 0))
        fits = fits and math.max(room[i], 0) >= claim.least[i]
      end
    end
    if lacking then
      if not (claim.final and fits) then
        asked = { "allot", index, missing, least, shown(account) }
        break
      end
      for i = 1, 4 do
        if limits[i] then
          cut[i] = math.min(cut[i], math.max(room[i], 0))
        end
      end
    end
  end
end
if asked then
  return asked
end

local path, rows = {}, {}
for index, scope in ipairs(claim.scopes) do
  local account = accounts[index]
  for i = 1, 4 do
    account.h[i] = account.h[i] + cut[i]
  end
  local kind = kind_of(account, claim.kind)
  kind[2] = kind[2] + cut[1]
  account.t = account.t or now
  save_account(scope[1], account)
  path[index], rows[index] = scope[1], scope[4] and shown(account) or ""
end
local hold = cmsgpack.pack({ a = cut, k = claim.kind, p = path, e = claim.expires })
redis.call("HSET", BASE, "h:" .. claim.id, hold)
redis.call("ZADD", EXPIRIES, string.format("%.17g", claim.expires), claim.id)
keep_alive(claim.ttl)
return { "hold", string.format("%.0f %.0f %.0f %.0f", cut[1], cut[2], cut[3], cut[4]), "", {}, rows }
