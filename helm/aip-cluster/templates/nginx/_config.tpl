{{- /*
The configuration of nginx: nginx/nginx.conf.tmpl, which is loadbalancer/nginx.conf.tmpl, with its places filled in for
Kubernetes. Nodes are found by the name of their headless Service and followed without a reload. Whatever place is left
over fails the rendering: a new one must be thought of here.
*/ -}}

{{- define "aip.nginxPlaces" -}}
{{- $nginx := .Values.nginx }}
{{- $nodes := printf "%s-nodes.%s.svc.%s:5000" (include "aip.fullname" .) .Release.Namespace .Values.clusterDomain }}
{{- $resolver := printf "        resolver %s valid=5s;\n" $nginx.resolver }}
{{- $tls := $nginx.tls.existingSecret }}
{{- $connections := int $nginx.workerConnections }}
{{- $proxies := $nginx.trustedProxies }}
{{- $port := ternary "" (printf ":%d" (int .Values.service.tlsPort)) (eq (int .Values.service.tlsPort) 443) }}
user: ""
worker_processes: {{ $nginx.workerProcesses | quote }}
worker_connections: {{ $connections | quote }}
open_files: {{ add (mul 2 $connections) 1024 | quote }}
shutdown_timeout: {{ printf "# At the end workers keep their sockets for this long, then close them.\nworker_shutdown_timeout %ds;\n" (int $nginx.drainSeconds) | quote }}
run_dir: /tmp/nginx
access_log: {{ ternary "\"/dev/stdout\" aip_json buffer=64k flush=1s" "off" $nginx.accessLog | quote }}
error_log: '"/dev/stderr"'
body_limit_bytes: {{ include "aip.setting" (list . "max_body_bytes" 2097152) | quote }}
file_limit_bytes: {{ include "aip.setting" (list . "max_file_bytes" 104857600) | quote }}
listen: {{ printf "*:%s backlog=4096" (ternary "8443 ssl" "8080" (not (empty $tls))) | quote }}
servers: {{ printf "%s        server %s resolve max_fails=1 fail_timeout=5s;" $resolver $nodes | quote }}
last_servers: {{ printf "        server %s resolve max_fails=0 backup;" $nodes | quote }}
socket_servers: {{ printf "%s        server %s resolve max_fails=0;" $resolver $nodes | quote }}
tries: {{ min 3 (ternary .Values.autoscaling.minReplicas .Values.replicaCount .Values.autoscaling.enabled) | quote }}
limit_zones: {{ include "aip.nginxLimitZones" . | quote }}
limits: {{ include "aip.nginxLimits" . | quote }}
tls: {{ ternary (include "aip.nginxTls" .) "" (not (empty $tls)) | quote }}
tls_protocol: {{ ternary "$ssl_protocol" "" (not (empty $tls)) | quote }}
strict_transport: {{ ternary "    add_header Strict-Transport-Security \"max-age=63072000\" always;\n" "" (not (empty $tls)) | quote }}
redirect: {{ ternary (printf "\n    server {\n        listen *:8080 backlog=4096;\n        return 308 https://$host%s$request_uri;\n    }\n" $port) "" (and (not (empty $tls)) $nginx.tls.redirect) | quote }}
admin: {{ include "aip.nginxHealth" . | quote }}
real_ip_maps: {{ include "aip.nginxRealIpMaps" . | quote }}
real_ip: {{ include "aip.nginxRealIp" . | quote }}
scheme: {{ ternary "$aip_scheme" "$scheme" (not (empty $proxies)) | quote }}
{{- end }}

{{- define "aip.nginxConf" -}}
{{- $text := .Files.Get "nginx/nginx.conf.tmpl" }}
{{- range $name, $value := include "aip.nginxPlaces" . | fromYaml }}
{{- $text = replace (printf "@{%s}" $name) $value $text }}
{{- end }}
{{- with regexFind "@\\{[a-z_]+\\}" $text }}
{{- fail (printf "nginx/nginx.conf.tmpl has a place that templates/nginx/_config.tpl does not fill in: %s." .) }}
{{- end }}
{{- $text }}
{{- end }}

{{- /* For the probes of Kubernetes: a port of its own, in no Service. */ -}}
{{- define "aip.nginxHealth" }}
    server {
        listen *:8081;
        access_log off;
        location = /healthz {
            default_type text/plain;
            return 200 "ok\n";
        }
        location / {
            return 404;
        }
    }
{{ end }}

{{- define "aip.nginxLimitZones" -}}
{{- $nginx := .Values.nginx }}
{{- $connections := include "aip.connectionsPerAddress" . | int }}
{{- if or $connections $nginx.requestsPerSecond }}    geo $aip_is_limited {
        default 1;
{{- range $nginx.unlimited }}
        {{ . }} 0;
{{- end }}
    }
    map $aip_is_limited $aip_address {
        default "";
        1 $binary_remote_addr;
    }
{{- if $connections }}
    limit_conn_zone $aip_address zone=aip_connections:10m;
{{- end }}
{{- if $nginx.requestsPerSecond }}
    limit_req_zone $aip_address zone=aip_requests:10m rate={{ int $nginx.requestsPerSecond }}r/s;
{{- end }}
{{ end }}
{{- end }}

{{- define "aip.nginxLimits" -}}
{{- $nginx := .Values.nginx }}
{{- $connections := include "aip.connectionsPerAddress" . | int }}
{{- if $connections }}        limit_conn aip_connections {{ $connections }};
        limit_conn_status 429;
{{ end }}
{{- if $nginx.requestsPerSecond }}        limit_req zone=aip_requests burst={{ ternary (mul 10 (int $nginx.requestsPerSecond)) (int $nginx.requestBurst) (kindIs "invalid" $nginx.requestBurst) }} nodelay;
        limit_req_status 429;
{{ end }}
{{- end }}

{{- define "aip.nginxTls" }}        ssl_certificate "/etc/nginx/tls/tls.crt";
        ssl_certificate_key "/etc/nginx/tls/tls.key";
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305;
        ssl_prefer_server_ciphers off;
        ssl_session_cache shared:aip_tls:10m;
        ssl_session_timeout 1d;
        ssl_session_tickets off;
{{ end }}

{{- define "aip.nginxRealIpMaps" -}}
{{- if .Values.nginx.trustedProxies }}    geo $realip_remote_addr $aip_is_proxy {
        default 0;
{{- range .Values.nginx.trustedProxies }}
        {{ . }} 1;
{{- end }}
    }
    map "$aip_is_proxy $http_x_forwarded_proto" $aip_scheme {
        default $scheme;
        "1 http" http;
        "1 https" https;
    }
{{ end }}
{{- end }}

{{- define "aip.nginxRealIp" -}}
{{- range .Values.nginx.trustedProxies }}        set_real_ip_from {{ . }};
{{ end }}
{{- if .Values.nginx.trustedProxies }}        real_ip_header X-Forwarded-For;
        real_ip_recursive on;
{{ end }}
{{- end }}
