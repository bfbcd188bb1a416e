-- Void a registration, if the given connection (or any connection of the given node) still holds it.
-- KEYS  1 registration   2 active sessions
-- ARGV  1 field to compare ('connection_id' or 'node_id')   2 its value
-- reply {1, session id, ...} with the sessions under way on the client, or {0} if somebody else holds it by now
local value = redis.call('HGET', KEYS[1], ARGV[1])
if value and value ~= ARGV[2] then return {0} end
redis.call('DEL', KEYS[1])
return {1, unpack(redis.call('ZRANGE', KEYS[2], 0, 4095))}
