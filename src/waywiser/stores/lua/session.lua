-- What the scripts of a session's slot share. Every key of a session carries its hash tag, so one slot holds them all.
--
-- KEYS: base (hash), expiries (sorted set), settled (sorted set), steps (list), spends (hash), receipts (hash),
-- order of receipts (sorted set), refusals (hash).
-- base holds  id session, at when last settled, b birth, v version, n count, l loop state, w:<model> warm prefix, h:<id> hold, a:<scope> account.
-- An account is { s spent, h held, g granted, t started or false, k = { kind = { spent, held } } }; one whose limit
-- lives in another slot has besides { A allotted, w newest credit applied, q newest return, u returns not known to
-- have arrived }. Amounts are { nanos, tokens, model calls, tool calls }, of what is
-- granted seconds too; doubles hold them exactly up to 2^53.
local BASE, EXPIRIES, SETTLED, STEPS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local SPENDS, RECEIPTS, ORDER, REFUSALS = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local SETTLED_KEPT = 1000

local function whole(number)
  return string.format("%.0f", number)
end

-- Numbered amounts as JSON. Written by hand: the library's encoder keeps 14 digits only.
local function listed(rows)
  local parts = {}
  for i, row in ipairs(rows) do
    local a = row[2]
    parts[i] = string.format("[%d,[%.0f,%.0f,%.0f,%.0f]]", row[1], a[1], a[2], a[3], a[4])
  end
  return "[" .. table.concat(parts, ",") .. "]"
end

local function load_account(key)
  local blob = redis.call("HGET", BASE, "a:" .. key)
  if blob then
    return cmsgpack.unpack(blob)
  end
  return { s = { 0, 0, 0, 0 }, h = { 0, 0, 0, 0 }, g = { 0, 0, 0, 0 }, t = false, k = {} }
end

local function save_account(key, account)
  redis.call("HSET", BASE, "a:" .. key, cmsgpack.pack(account))
end

local function kind_of(account, kind)
  if not account.k[kind] then
    account.k[kind] = { 0, 0 }
  end
  return account.k[kind]
end

local function purse(account)
  if not account.A then
    account.A, account.w, account.q, account.u = { 0, 0, 0, 0 }, 0, 0, {}
  end
  return account
end

-- Take in what the other slot says: new credits, each once and in order, and which returns have arrived there.
local function trade(account, news)
  purse(account)
  for _, credit in ipairs(news[1]) do
    if credit[1] > account.w then
      for i = 1, 4 do
        account.A[i] = account.A[i] + credit[2][i]
      end
      account.w = credit[1]
    end
  end
  while account.u[1] and account.u[1][1] <= news[2] do
    table.remove(account.u, 1)
  end
end

local function take_hold(id)
  local blob = redis.call("HGET", BASE, "h:" .. id)
  if not blob then
    return nil
  end
  redis.call("HDEL", BASE, "h:" .. id)
  redis.call("ZREM", EXPIRIES, id)
  return cmsgpack.unpack(blob)
end

-- Give back what holds that have expired set aside, in every scope they took it from.
local function expire(now)
  for _, id in ipairs(redis.call("ZRANGEBYSCORE", EXPIRIES, "-inf", now)) do
    local hold = take_hold(id)
    for _, key in ipairs(hold.p) do
      local account = load_account(key)
      for i = 1, 4 do
        account.h[i] = account.h[i] - hold.a[i]
      end
      local kind = kind_of(account, hold.k)
      kind[2] = kind[2] - hold.a[1]
      save_account(key, account)
    end
  end
end

-- An account as the client reads it, words in one string (a client spends more on many short replies than on one long):
-- 12 amounts, when it started, the seconds granted, and what it has of another slot's limit.
local function shown(account)
  local s, h, g = account.s, account.h, account.g
  local row = string.format(
    "%.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.17g %.0f",
    s[1], s[2], s[3], s[4], h[1], h[2], h[3], h[4], g[1], g[2], g[3], g[4], account.t or -1, g[5] or 0
  )
  local A = account.A
  if not A then
    return row
  end
  return string.format("%s %.0f %.0f %.0f %.0f %.0f %s", row, A[1], A[2], A[3], A[4], account.w, listed(account.u))
end

local function keep_alive(seconds)
  for _, key in ipairs(KEYS) do
    redis.call("EXPIRE", key, seconds)
  end
end
