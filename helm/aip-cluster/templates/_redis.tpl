{{- /* How the nodes reach Redis: a URL without any password; passwords come from Secrets, beside it. */ -}}

{{- define "aip.redisTlsDir" -}}/etc/aip/redis-tls{{- end }}

{{- define "aip.redisUrl" -}}
{{- $redis := .Values.redis }}
{{- if eq $redis.mode "embedded" -}}
embedded://
{{- else if eq $redis.mode "bundled" -}}
redis://{{ include "aip.fullname" . }}-redis:6379/0
{{- else }}
{{- $kind := get (dict "single" "" "sentinel" "+sentinel" "cluster" "+cluster") $redis.mode }}
{{- $database := int $redis.database | toString }}
{{- $path := get (dict "single" (printf "/%s" $database) "sentinel" (printf "/%s/%s" $redis.sentinel.service $database) "cluster" "") $redis.mode }}
{{- $parameters := list }}
{{- if $redis.tls.enabled }}
{{- if $redis.tls.caSecret }}{{ $parameters = append $parameters (printf "ssl_ca_certs=%s/ca/%s" (include "aip.redisTlsDir" .) $redis.tls.caKey) }}{{ end }}
{{- if $redis.tls.clientSecret }}
{{- $parameters = append $parameters (printf "ssl_certfile=%s/client/tls.crt" (include "aip.redisTlsDir" .)) }}
{{- $parameters = append $parameters (printf "ssl_keyfile=%s/client/tls.key" (include "aip.redisTlsDir" .)) }}
{{- end }}
{{- if not $redis.tls.checkHostname }}{{ $parameters = append $parameters "ssl_check_hostname=false" }}{{ end }}
{{- end }}
{{- if eq $redis.mode "sentinel" }}
{{- if $redis.sentinel.username }}{{ $parameters = append $parameters (printf "sentinel_username=%s" $redis.sentinel.username) }}{{ end }}
{{- if not (kindIs "invalid" $redis.sentinel.tls) }}{{ $parameters = append $parameters (printf "sentinel_ssl=%t" $redis.sentinel.tls) }}{{ end }}
{{- end -}}
{{ ternary "rediss" "redis" $redis.tls.enabled }}{{ $kind }}://{{ with $redis.username }}{{ . }}@{{ end }}{{ join "," $redis.addresses }}{{ $path }}{{ with $parameters }}?{{ join "&" . }}{{ end }}
{{- end }}
{{- end }}

{{- /* Secrets of Redis as variables of a node. */ -}}
{{- define "aip.redisEnv" -}}
{{- $redis := .Values.redis }}
{{- if and $redis.existingSecret $redis.urlKey }}
- name: AIP_REDIS_URL
  valueFrom:
    secretKeyRef: {name: {{ $redis.existingSecret }}, key: {{ $redis.urlKey }}}
{{- else if $redis.existingSecret }}
{{- if $redis.passwordKey }}
- name: AIP_REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ $redis.existingSecret }}, key: {{ $redis.passwordKey }}}
{{- end }}
{{- if and (eq $redis.mode "sentinel") $redis.sentinel.passwordKey }}
- name: AIP_REDIS_SENTINEL_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ $redis.existingSecret }}, key: {{ $redis.sentinel.passwordKey }}}
{{- end }}
{{- end }}
{{- end }}
