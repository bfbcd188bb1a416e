{{- /* What values.schema.json cannot say: values that do not go together, each refused with a sentence. */ -}}

{{- define "aip.validate" -}}
{{- $v := .Values }}
{{- $redis := $v.redis }}
{{- if eq $redis.mode "embedded" }}
  {{- if include "aip.manyNodes" . }}
    {{- fail "redis.mode embedded keeps everything in the memory of one node: set replicaCount to 1 and autoscaling.enabled to false, or choose another redis.mode." }}
  {{- end }}
  {{- if $redis.existingSecret }}
    {{- fail "redis.existingSecret has no meaning with redis.mode embedded: there is no Redis to log in to." }}
  {{- end }}
{{- end }}
{{- if and $redis.urlKey (not $redis.existingSecret) }}
  {{- fail "redis.urlKey names a key of redis.existingSecret: set redis.existingSecret, too." }}
{{- end }}
{{- if and $redis.urlKey (eq $redis.mode "bundled") }}
  {{- fail "redis.urlKey is the address of a Redis of yours: set redis.mode to single, sentinel or cluster." }}
{{- end }}
{{- if and (not $redis.urlKey) (has $redis.mode (list "single" "sentinel" "cluster")) }}
  {{- if not $redis.addresses }}
    {{- fail (printf "redis.mode %s needs redis.addresses: a list of host:port." $redis.mode) }}
  {{- end }}
  {{- if and (eq $redis.mode "single") (gt (len $redis.addresses) 1) }}
    {{- fail "redis.mode single has one address in redis.addresses; several are sentinel or cluster." }}
  {{- end }}
  {{- if and (eq $redis.mode "sentinel") (not $redis.sentinel.service) }}
    {{- fail "redis.mode sentinel needs redis.sentinel.service: the name under which the sentinels know the primary." }}
  {{- end }}
{{- end }}
{{- if and $redis.addresses (has $redis.mode (list "bundled" "embedded")) }}
  {{- fail (printf "redis.addresses is not used with redis.mode %s: set redis.mode to single, sentinel or cluster." $redis.mode) }}
{{- end }}
{{- if and (eq $redis.mode "cluster") (ne (int $redis.database) 0) }}
  {{- fail "redis.database must be 0 with redis.mode cluster: a Redis Cluster has only one." }}
{{- end }}
{{- if and (or $redis.tls.caSecret $redis.tls.clientSecret) (not $redis.tls.enabled) (not $redis.urlKey) }}
  {{- fail "redis.tls.caSecret and redis.tls.clientSecret need redis.tls.enabled: otherwise the lines to Redis are not TLS." }}
{{- end }}
{{- if and $redis.tls.enabled (has $redis.mode (list "bundled" "embedded")) }}
  {{- fail (printf "redis.tls.enabled is for a Redis of yours: redis.mode %s has no TLS." $redis.mode) }}
{{- end }}
{{- if and (has $redis.mode (list "bundled" "embedded")) (gt (int (include "aip.setting" (list . "min_replicas" 0))) 0) }}
  {{- fail (printf "settings.min_replicas must be 0 with redis.mode %s: there is no replica, and every dispatch would be refused." $redis.mode) }}
{{- end }}

{{- $needed := addf $v.drain.preStopPauseSeconds (include "aip.setting" (list . "drain_deadline_s" 130)) (include "aip.setting" (list . "drain_linger_s" 5)) (include "aip.setting" (list . "shutdown_timeout_s" 10)) 5 | ceil }}
{{- if lt (float64 $v.terminationGracePeriodSeconds) $needed }}
  {{- fail (printf "terminationGracePeriodSeconds is %v and must be at least %v: drain.preStopPauseSeconds + settings.drain_deadline_s + drain_linger_s + shutdown_timeout_s + 5. Otherwise a node is killed in the middle of its drain." (include "aip.plain" $v.terminationGracePeriodSeconds) $needed) }}
{{- end }}
{{- if $v.nginx.enabled }}
  {{- $needed := add $v.nginx.preStopPauseSeconds $v.nginx.drainSeconds 5 }}
  {{- if lt (int64 $v.nginx.terminationGracePeriodSeconds) $needed }}
    {{- fail (printf "nginx.terminationGracePeriodSeconds is %v and must be at least %v: nginx.preStopPauseSeconds + nginx.drainSeconds + 5." (include "aip.plain" $v.nginx.terminationGracePeriodSeconds) $needed) }}
  {{- end }}
{{- end }}

{{- if and (include "aip.exposed" .) (not $v.auth.existingSecret) (not $v.auth.allowAnonymous) }}
  {{- fail "The cluster would be reachable from outside without a key, and whoever reaches it can run commands on every device: set auth.existingSecret, or auth.allowAnonymous to true if you mean it." }}
{{- end }}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) }}
  {{- fail "ingress.enabled needs ingress.hosts: a list of host names." }}
{{- end }}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) }}
  {{- fail "httpRoute.enabled needs httpRoute.parentRefs: the gateways it belongs to." }}
{{- end }}
{{- if and $v.nginx.tls.existingSecret (or $v.ingress.enabled $v.httpRoute.enabled) }}
  {{- fail "nginx.tls.existingSecret is for an nginx that clients reach directly: an Ingress or a Gateway ends TLS itself; set it there." }}
{{- end }}

{{- if $v.autoscaling.enabled }}
  {{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) }}
    {{- fail "autoscaling.minReplicas is above autoscaling.maxReplicas." }}
  {{- end }}
  {{- if not (or $v.autoscaling.connectionsPerPod $v.autoscaling.cpuUtilization) }}
    {{- fail "autoscaling.enabled needs something to scale by: autoscaling.connectionsPerPod or autoscaling.cpuUtilization." }}
  {{- end }}
  {{- if and $v.autoscaling.keda.enabled $v.autoscaling.connectionsPerPod (not $v.autoscaling.keda.prometheusAddress) }}
    {{- fail "autoscaling.keda.enabled needs autoscaling.keda.prometheusAddress: whom to ask for the sockets of each pod." }}
  {{- end }}
  {{- if and $v.autoscaling.cpuUtilization (not (dig "requests" "cpu" "" $v.resources)) }}
    {{- fail "autoscaling.cpuUtilization is a share of resources.requests.cpu: set that, too." }}
  {{- end }}
{{- end }}
{{- $pdb := $v.podDisruptionBudget }}
{{- if and $pdb.enabled (not (kindIs "invalid" $pdb.maxUnavailable)) (not (kindIs "invalid" $pdb.minAvailable)) }}
  {{- fail "podDisruptionBudget has maxUnavailable and minAvailable: Kubernetes takes one of them; set the other to null." }}
{{- end }}
{{- if and $pdb.enabled (kindIs "invalid" $pdb.maxUnavailable) (kindIs "invalid" $pdb.minAvailable) }}
  {{- fail "podDisruptionBudget needs maxUnavailable or minAvailable." }}
{{- end }}
{{- if and $v.metrics.serviceMonitor.enabled $v.metrics.podMonitor.enabled }}
  {{- fail "metrics.serviceMonitor and metrics.podMonitor are both enabled: every node would be scraped, and counted, twice." }}
{{- end }}
{{- if eq (int $v.metrics.port) 5000 }}
  {{- fail "metrics.port must not be 5000: that is the nodes' public port, and metrics are not public." }}
{{- end }}
{{- range $v.extraEnv }}
  {{- if hasPrefix "AIP_" (upper .name) }}
    {{- fail (printf "extraEnv has %s: settings of a node belong into settings, secrets into a value of their own." .name) }}
  {{- end }}
{{- end }}
{{- end }}
