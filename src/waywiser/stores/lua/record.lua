-- ARGV: now, ttl, receipts kept, birth, receipt's id and receipt, refusal's field and reason (empty: none),
-- session.
redis.call("HSETNX", BASE, "b", ARGV[4])
redis.call("HSETNX", BASE, "at", ARGV[1])
redis.call("HSETNX", BASE, "id", ARGV[9])
keep_receipt(ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[1], tonumber(ARGV[3]))
keep_alive(ARGV[2])
return 1
