{{/* The labels of every object. They are the same in the manifests for kustomize: no chart version, no release. */}}
{{- define "imds-guard.labels" -}}
app.kubernetes.io/name: imds-guard
{{- end }}

{{/* The namespaced objects' metadata. Names are fixed: a cluster has one guard. */}}
{{- define "imds-guard.metadata" -}}
name: imds-guard
namespace: {{ .Release.Namespace }}
labels:
  {{- include "imds-guard.labels" . | nindent 2 }}
{{- end }}

{{- define "imds-guard.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "imds-guard.subjects" -}}
subjects:
  - kind: ServiceAccount
    name: {{ .Values.serviceAccount.name }}
    namespace: {{ .Release.Namespace }}
{{- end }}

{{- define "imds-guard.securityContext" -}}
{{- if eq .Values.profile "privileged" -}}
privileged: true
{{- else -}}
privileged: false
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
  # BPF: load programs and maps. NET_ADMIN: attach them to cgroups. PERFMON: let the verifier track pointers as it
  # does for root. For the gates, SYS_PTRACE: find a pod's network by its sandbox's process, and the host's by that
  # of init. SYS_ADMIN: enter it, to open a listener there.
  add: [BPF, NET_ADMIN, PERFMON, SYS_ADMIN, SYS_PTRACE]
# Default profiles differ in what they let these capabilities do: bpf(2), setns(2).
seccompProfile:
  type: Unconfined
{{- end }}
readOnlyRootFilesystem: true
runAsUser: 0
{{- with .Values.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.appArmorProfile }}
appArmorProfile:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
