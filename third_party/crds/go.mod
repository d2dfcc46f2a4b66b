// The definitions of custom resources that people install most, as their modules
// publish them. Nothing is built of these.
module github.com/skiff-k8s/skiff/third_party/crds

go 1.26.0

require (
	github.com/argoproj/argo-cd/v3 v3.4.4
	github.com/cert-manager/cert-manager v1.21.2
	github.com/kyverno/kyverno v1.19.1
	github.com/open-policy-agent/gatekeeper/v3 v3.23.1
	github.com/prometheus-operator/prometheus-operator v0.85.0
	istio.io/api v1.32.0
	knative.dev/serving v0.51.0
	sigs.k8s.io/cluster-api v1.14.2
	sigs.k8s.io/gateway-api v1.5.0
)
