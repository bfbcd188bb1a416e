-- Whether a session in this state has ended: the states of TERMINAL in aip_cluster/protocol/session_states.py.
local function is_terminal(state)
  return state == 'completed' or state == 'failed' or state == 'cancelled' or state == 'timed_out'
end
