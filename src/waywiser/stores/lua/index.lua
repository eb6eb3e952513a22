-- KEYS: a shard of the index from receipts to sessions (sorted set, all scores 0: sorted by id, so by time).
-- ARGV: member (id, a zero byte, session), how many to keep, ttl.
redis.call("ZADD", KEYS[1], 0, ARGV[1])
redis.call("ZREMRANGEBYRANK", KEYS[1], 0, -1 - ARGV[2])
redis.call("EXPIRE", KEYS[1], ARGV[3])
return 1
