{{/* Labels of everything. */}}
{{- define "longwave.labels" -}}
app.kubernetes.io/name: longwave
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: longwave
longwave.example.com/environment: {{ .Values.environment }}
{{- end }}

{{/* What selects the pods of a role: (list . role). */}}
{{- define "longwave.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: longwave
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* What selects the pods of all roles, and the migration's. */}}
{{- define "longwave.all" -}}
app.kubernetes.io/name: longwave
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* name, namespace and labels of an object: (list . name). */}}
{{- define "longwave.metadata" -}}
{{- $root := index . 0 -}}
name: {{ index . 1 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "longwave.labels" $root | nindent 2 }}
{{- end }}

{{- define "longwave.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "longwave.usesCertificate" -}}
{{- if has .Values.grpc.security (list "certificate" "secret") }}true{{ end -}}
{{- end }}

{{/* The ConfigMap's data: the settings, and what follows from other values. Doors are on loopback unless a role opens one. */}}
{{- define "longwave.settings" -}}
{{- $settings := merge (dict
  "LONGWAVE_GRPC_ADDRESS" "127.0.0.1:50051"
  "LONGWAVE_HTTP_ADDRESS" (printf "0.0.0.0:%d" 8080)
  "LONGWAVE_WEBHOOK_ADDRESS" "127.0.0.1:8081"
  "LONGWAVE_DRAIN_S" (toString .Values.drain.drainSeconds)
  "LONGWAVE_SECRET_FILE" "/etc/longwave/secrets/secret-file"
  "LONGWAVE_STORE_PASSWORD_FILE" "/etc/longwave/secrets/store-password"
) .Values.settings -}}
{{- if .Values.settings.LONGWAVE_REDIS_URL -}}
{{- $_ := set $settings "LONGWAVE_REDIS_PASSWORD_FILE" "/etc/longwave/secrets/redis-password" -}}
{{- end -}}
{{- if .Values.storeAuthorities -}}
{{- $_ := set $settings "LONGWAVE_STORE_TLS_CA_FILE" "/etc/longwave/store-authorities/ca.pem" -}}
{{- end -}}
{{- if eq .Values.grpc.security "plain" -}}
{{- $_ := set $settings "LONGWAVE_INSECURE" "true" -}}
{{- end -}}
{{- range $name, $value := $settings }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* Of every pod. */}}
{{- define "longwave.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1001
runAsGroup: 1001
fsGroup: 1001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Of every container. */}}
{{- define "longwave.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 1001
runAsGroup: 1001
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}
