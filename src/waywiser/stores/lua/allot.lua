-- The slot of a scope above sessions (a tenant's day). It allots parts of its limit to sessions, which spend them in
-- their own slots; so no step writes here, only every tenth or so.
--
-- KEYS: base (hash), idle (sorted set: sessions by the share of the limit they have but had not spent when last heard of).
-- base holds  T { A allotted to all, S known as spent by all, g granted }, s:<session> { A, S, n newest credit,
-- u credits not known to have arrived, r newest return that has arrived }.
-- ARGV: (JSON) { session, limits, need, least, want, spent, credited, returns, ttl, find }.
-- It takes in the returns and what was spent; then allots `need`, or as much of it as is left if that is `least`, and up to
-- `want` when there is plenty. Returns { what lacks of need[4], of least[4], the session's credits (JSON), newest return,
-- allotted[4], spent[4], granted[4], the session's spent[4], and if it was less than `need`, from the `find`th on
-- { a session that may have something idle, its credits (JSON), its newest return, ... } }.
local ask = cjson.decode(ARGV[1])
local BASE, IDLE = KEYS[1], KEYS[2]

local function whole(number)
  return string.format("%.0f", number)
end

local function texts(amounts)
  return { whole(amounts[1]), whole(amounts[2]), whole(amounts[3]), whole(amounts[4]) }
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

local function load_session(session)
  local blob = redis.call("HGET", BASE, "s:" .. session)
  if blob then
    return cmsgpack.unpack(blob)
  end
  return { A = { 0, 0, 0, 0 }, S = { 0, 0, 0, 0 }, n = 0, u = {}, r = 0 }
end

local blob = redis.call("HGET", BASE, "T")
local total = blob and cmsgpack.unpack(blob) or { A = { 0, 0, 0, 0 }, S = { 0, 0, 0, 0 }, g = { 0, 0, 0, 0 } }
local one = load_session(ask.session)

local function credit(amounts)
  one.n = one.n + 1
  table.insert(one.u, { one.n, amounts })
  for i = 1, 4 do
    one.A[i] = one.A[i] + amounts[i]
    total.A[i] = total.A[i] + amounts[i]
  end
end

while one.u[1] and one.u[1][1] <= ask.credited do
  table.remove(one.u, 1)
end
for _, back in ipairs(ask.returns) do
  if back[1] > one.r then
    for i = 1, 4 do
      one.A[i] = one.A[i] - back[2][i]
      total.A[i] = total.A[i] - back[2][i]
    end
    one.r = back[1]
  end
end
local over, overspent = { 0, 0, 0, 0 }, false
for i = 1, 4 do
  -- Spending only grows, so that of two reports the larger is the newer.
  local more = math.max(ask.spent[i] - one.S[i], 0)
  one.S[i] = one.S[i] + more
  total.S[i] = total.S[i] + more
  over[i] = math.max(one.S[i] - one.A[i], 0)
  overspent = overspent or over[i] > 0
end
if overspent then
  credit(over)
end

-- Credits that the session has not heard of yet (another worker may have asked for them) serve this need too.
for _, coming in ipairs(one.u) do
  for i = 1, 4 do
    ask.need[i] = math.max(ask.need[i] - coming[2][i], 0)
    ask.least[i] = math.max(ask.least[i] - coming[2][i], 0)
  end
end
local enough, short, any, given = true, false, false, { 0, 0, 0, 0 }
for i = 1, 4 do
  if ask.limits[i] then
    local left = math.max(ask.limits[i] + total.g[i] - total.A[i], 0)
    given[i] = math.min(left, math.max(ask.need[i], math.min(ask.want[i], math.floor(left / 4))))
    enough = enough and given[i] >= ask.least[i]
    short = short or given[i] < ask.need[i]
    any = any or given[i] > 0
  end
end
if enough and any then
  credit(given)
  for i = 1, 4 do
    ask.need[i] = math.max(ask.need[i] - given[i], 0)
    ask.least[i] = math.max(ask.least[i] - given[i], 0)
  end
end

local share = 0
for i = 1, 4 do
  if ask.limits[i] and ask.limits[i] > 0 then
    share = math.max(share, (one.A[i] - one.S[i]) / ask.limits[i])
  end
end
if share > 0 then
  redis.call("ZADD", IDLE, share, ask.session)
else
  redis.call("ZREM", IDLE, ask.session)
end
redis.call("HSET", BASE, "T", cmsgpack.pack(total), "s:" .. ask.session, cmsgpack.pack(one))
redis.call("EXPIRE", BASE, ask.ttl)
redis.call("EXPIRE", IDLE, ask.ttl)

local idle = {}
if short or not enough then
  for _, session in ipairs(redis.call("ZREVRANGE", IDLE, ask.find, ask.find + 15)) do
    if session ~= ask.session then
      local other = load_session(session)
      idle[#idle + 1] = session
      idle[#idle + 1] = listed(other.u)
      idle[#idle + 1] = whole(other.r)
    end
  end
end
return {
  texts(ask.need), texts(ask.least), listed(one.u), whole(one.r),
  texts(total.A), texts(total.S), texts(total.g), texts(one.S), idle,
}
