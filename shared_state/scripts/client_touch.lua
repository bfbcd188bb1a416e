-- Keep a registration alive, and change fields of it, if this connection still holds it.
-- KEYS  1 registration
-- ARGV  1 connection id   2 life, ms   3.. field, value, ...
-- reply 1 if held, else 0
if redis.call('HGET', KEYS[1], 'connection_id') ~= ARGV[1] then return 0 end
if #ARGV > 2 then redis.call('HSET', KEYS[1], unpack(ARGV, 3)) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
