-- Register a connection as the holder of a client id. Safe to repeat: the same connection gets the same answer.
-- A connection that holds it already gives way only to one that shows the client's resume token, or where the caller found
-- the holder to be gone: many clients may share a credential, so it proves nothing about which of them this is. The token
-- that was shown last counts as well as the one that was given for it: the answer may never have arrived. A client that is
-- away is replaced by the same credential, too.
-- KEYS  1 registration   2 active sessions
-- ARGV  1 connection id   2 connection id that may be replaced ('' = none)   3 life, ms   4 client type
--       5 hash of the resume token it shows ('' = none)   6 its credential ('' = none)
--       7 generation in which this connection was registered before: a newer one stands, an older one is replaced ('' = none)
--       8.. field, value, ...
-- reply {1, generation, 1 if the resume token was right else 0, node id replaced ('' = none), connection id replaced,
--       session under way, ...} or {0, node id, connection id} of the holder ('' = away, and of another credential)
local there = redis.call('HMGET', KEYS[1], 'connection_id', 'node_id', 'client_type', 'token_hash', 'credential',
  'generation', 'proven', 'replaced_node', 'replaced_connection', 'shown_hash')
local sessions = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(9007199254740991', 'LIMIT', 0, 4096)
local generation = tonumber(there[6] or '0')
if there[1] == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return {1, there[6], tonumber(there[7]), there[8], there[9], unpack(sessions)}
end
if ARGV[7] ~= '' and generation > tonumber(ARGV[7]) then return {0, there[2] or '', there[1] or ''} end
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local alike = there[3] == ARGV[4]
local proven = alike and ARGV[5] ~= '' and (there[4] == ARGV[5] or there[10] == ARGV[5])
local credible = alike and ARGV[6] ~= '' and there[5] == ARGV[6]
-- What is stored is from before this connection's own registration: a failover brought it back.
local past = ARGV[7] ~= '' and generation < tonumber(ARGV[7])
if there[1] then
  if there[1] ~= ARGV[2] and not past and not proven then return {0, there[2] or '', there[1]} end
elseif there[6] and (there[5] or '') ~= '' and not past and not credible and not proven then
  return {0, '', ''}
end
generation = string.format('%.0f', math.max(generation + 1, (tonumber(ARGV[7]) or 0) + 1, now_us))
redis.call('DEL', KEYS[1])
-- What every dispatch looks at comes first: a small hash is searched from its beginning.
redis.call('HSET', KEYS[1], 'held', generation, 'generation', generation, unpack(ARGV, 8))
redis.call('HSET', KEYS[1], 'connection_id', ARGV[1], 'client_type', ARGV[4], 'credential', ARGV[6],
  'proven', proven and '1' or '0', 'shown_hash', proven and ARGV[5] or '',
  'replaced_node', there[2] or '', 'replaced_connection', there[1] or '')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {1, generation, proven and 1 or 0, there[2] or '', there[1] or '', unpack(sessions)}
