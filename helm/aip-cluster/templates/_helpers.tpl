{{- /* Names, labels, and what several templates say alike. */ -}}

{{- define "aip.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* At most 53 characters: a suffix must fit into 63. */ -}}
{{- define "aip.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "aip.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "aip.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: aip-cluster
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- /* A list of the root and the component: selects the pods of one component of one release. */ -}}
{{- define "aip.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "aip.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* Labels of pods: without versions, or a new version of the chart alone would start them anew, Redis too. */ -}}
{{- define "aip.podLabels" -}}
{{ include "aip.selector" . }}
app.kubernetes.io/part-of: aip-cluster
{{- end }}

{{- define "aip.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "aip.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "aip.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{- /* A number as a person writes it: YAML's numbers come as floats, and 16777216 must not become 1.6777216e+07. */ -}}
{{- define "aip.plain" -}}
{{- if kindIs "float64" . }}{{ if eq (floor .) . }}{{ printf "%.0f" . }}{{ else }}{{ . }}{{ end }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- /* A setting of the nodes as it will be: a list of the root, the name, and the node's own default. */ -}}
{{- define "aip.setting" -}}
{{- $given := get (index . 0).Values.settings (index . 1) }}
{{- if kindIs "invalid" $given }}{{ include "aip.plain" (index . 2) }}
{{- else if kindIs "string" $given }}{{ if $given }}{{ $given }}{{ else }}{{ include "aip.plain" (index . 2) }}{{ end }}
{{- else }}{{ include "aip.plain" $given }}{{ end }}
{{- end }}

{{- define "aip.podSecurityContext" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "aip.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "aip.manyNodes" -}}
{{- if or .Values.autoscaling.enabled (gt (int .Values.replicaCount) 1) }}true{{ end }}
{{- end }}

{{- /* Whether the cluster can be reached from outside of Kubernetes. */ -}}
{{- define "aip.exposed" -}}
{{- if or .Values.ingress.enabled .Values.httpRoute.enabled (ne .Values.service.type "ClusterIP") }}true{{ end }}
{{- end }}

{{- /*
Whether what comes in from outside has the address of its client, and not of something in between that has not been
named: behind an Ingress, a Gateway, or a Service that hides addresses, all clients would share what one may have.
*/ -}}
{{- define "aip.addressesKnown" -}}
{{- $v := .Values }}
{{- $hidden := or $v.ingress.enabled $v.httpRoute.enabled (and (ne $v.service.type "ClusterIP") (ne $v.service.externalTrafficPolicy "Local")) }}
{{- if or (not $hidden) (and $v.nginx.enabled $v.nginx.trustedProxies) }}true{{ end }}
{{- end }}

{{- define "aip.connectionsPerAddress" -}}
{{- $given := .Values.nginx.connectionsPerAddress }}
{{- if not (kindIs "invalid" $given) }}{{ int $given }}
{{- else if include "aip.addressesKnown" . }}{{ max 1 (div (int .Values.nginx.workerConnections) 8) }}
{{- else }}0{{ end }}
{{- end }}

{{- define "aip.publicPort" -}}
{{- if and .Values.nginx.enabled .Values.nginx.tls.existingSecret }}{{ .Values.service.tlsPort }}{{ else }}{{ .Values.service.port }}{{ end }}
{{- end }}

{{- /* A list of the root, the component, and the workload's own affinity; for several pods of a kind. */ -}}
{{- define "aip.spread" -}}
{{- $root := index . 0 }}
{{- if $root.Values.topologySpread.enabled }}
topologySpreadConstraints:
{{- range $root.Values.topologySpread.topologyKeys }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: {{ $root.Values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "aip.selector" $ | nindent 8 }}
{{- end }}
{{- end }}
{{- end }}

{{- /*
What of REST is public: everything but the drain of a node, probes and metrics. nginx refuses those by itself; an
Ingress or a route to the nodes must not name them. tests/helm compares this list with the nodes' own table.
*/ -}}
{{- define "aip.publicPaths" -}}
exact: [/, /ws, /api/nodes, /api/health, /docs, /openapi.json]
prefix: [/api/dispatch, /api/task_result, /api/clients, /api/sessions, /api/batches]
{{- end }}

{{- /* How Prometheus asks a node; of a ServiceMonitor's or a PodMonitor's values. */ -}}
{{- define "aip.scrape" -}}
port: metrics
path: /metrics
interval: {{ .interval }}
scrapeTimeout: {{ .scrapeTimeout }}
{{- with .relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
