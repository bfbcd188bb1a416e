-- End a registration, for good or as away for a while, if the given connection (or node) still holds it. Safe to repeat.
-- Of a client that is away the inbox goes on taking messages.
-- KEYS  1 registration   2 active sessions
-- ARGV  1 field to compare ('connection_id' or 'node_id')   2 its value   3 how long it may be away, ms (0 = for good)
--       4 life of what is kept of it beyond that, ms
-- reply {1, generation, session under way, ...} ended (also if it was before), or {0, generation, ...} another
--       connection holds the client by now
local there = redis.call('HMGET', KEYS[1], ARGV[1], 'left_' .. ARGV[1], 'generation')
local sessions = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(9007199254740991', 'LIMIT', 0, 4096)
local generation = there[3] or '0'
if there[1] and there[1] ~= ARGV[2] then return {0, generation, unpack(sessions)} end
if not there[1] and there[3] and there[2] ~= ARGV[2] then return {0, generation, unpack(sessions)} end
if ARGV[3] == '0' then
  redis.call('DEL', KEYS[1])
elseif there[1] then
  local time = redis.call('TIME')
  local away_until = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3]
  local held = redis.call('HMGET', KEYS[1], 'connection_id', 'node_id')
  redis.call('HDEL', KEYS[1], 'connection_id', 'node_id', 'held')
  redis.call('HSET', KEYS[1], 'away_until_ms', string.format('%.0f', away_until),
    'left_connection_id', held[1] or '', 'left_node_id', held[2] or '')
  redis.call('PEXPIRE', KEYS[1], ARGV[3] + ARGV[4])
end
return {1, generation, unpack(sessions)}
