{{- define "coze-gateway.name" -}}
{{- if contains "coze-gateway" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-coze-gateway" (.Release.Name | trunc 37 | trimSuffix "-") }}
{{- end }}
{{- end }}

{{- define "coze-gateway.selector" -}}
app.kubernetes.io/name: coze-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "coze-gateway.labels" -}}
{{ include "coze-gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
