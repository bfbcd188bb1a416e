-- Note what became of an item of a batch that is still stored.
-- KEYS  1 batch
-- ARGV  1 number of the item   2 item (JSON)
-- reply 1 if noted, 0 if the batch is not stored any more
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
