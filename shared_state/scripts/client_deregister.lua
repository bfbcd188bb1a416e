-- Void a registration, if the given connection (or any connection of the given node) still holds it.
-- KEYS  1 registration   2 active sessions
-- ARGV  1 field to compare ('connection_id' or 'node_id')   2 its value
-- reply {1, session id, ...} voided, or {0, session id, ...} somebody else holds it by now; the sessions are those
--       under way on the client
local value = redis.call('HGET', KEYS[1], ARGV[1])
local sessions = redis.call('ZRANGE', KEYS[2], 0, 4095)
if value and value ~= ARGV[2] then return {0, unpack(sessions)} end
redis.call('DEL', KEYS[1])
return {1, unpack(sessions)}
