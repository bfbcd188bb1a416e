-- What bounds the lists of a client, and how long they live.
-- Of its newest sessions a tenth more than the bound is no matter.
local NEWEST_BOUND = 1000
-- The set of active sessions outlives their deadlines by a day.
local ACTIVE_SLACK_MS = 86400000
-- Where lives are renewed now and then, they are so much longer: twice RENEW_EVERY_S in shared_state/session_create.py.
local RENEW_SLACK_MS = 1200000
