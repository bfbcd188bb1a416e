-- Keep a registration alive, and change fields of it, if this connection still holds it.
-- KEYS  1 registration
-- ARGV  1 connection id   2 life, ms   3 features   4 what `held` becomes if they are others than before ('' = they
--       stay)   5.. field, value, ...
-- reply 1 if held, else 0
if redis.call('HGET', KEYS[1], 'connection_id') ~= ARGV[1] then return 0 end
-- First, since it takes no memory: after it the rest is written although memory is short (docs/REDIS.md).
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if ARGV[4] ~= '' and redis.call('HGET', KEYS[1], 'features') ~= ARGV[3] then
  redis.call('HSET', KEYS[1], 'features', ARGV[3], 'held', ARGV[4])
end
if ARGV[5] then redis.call('HSET', KEYS[1], unpack(ARGV, 5)) end
return 1
