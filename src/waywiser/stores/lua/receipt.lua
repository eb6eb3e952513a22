-- Keep a receipt, once, bounded by session; count a refusal. Part of `settle` and `record`.
local function keep_receipt(id, blob, refusal, reason, now, most)
  local fresh = redis.call("HSET", RECEIPTS, id, blob)
  if fresh == 0 then
    return
  end
  local last = redis.call("ZREVRANGE", ORDER, 0, 0, "WITHSCORES")
  redis.call("ZADD", ORDER, last[2] and last[2] + 1 or 1, id)
  if redis.call("ZCARD", ORDER) > most then
    local oldest = redis.call("ZPOPMIN", ORDER)
    redis.call("HDEL", RECEIPTS, oldest[1])
  end
  if refusal ~= "" then
    redis.call("HINCRBY", REFUSALS, "n" .. refusal, 1)
    redis.call("HSET", REFUSALS, "t" .. refusal, now, "r" .. refusal, reason)
  end
end
