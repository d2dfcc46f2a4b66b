// Package core holds the kinds of the API group "" (core/v1), a file per kind.
// Each file starts with the row of the kind and goes on with the functions the
// row names, in the order they run. The texts of errors and warnings are those
// of Kubernetes 1.36, because programs and people look for them.
package core

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/apiserver/alloc"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Config is what the rows of this group need from elsewhere.
type Config struct {
	// Services gives addresses and node ports.
	Services *alloc.Services
	// Token is serviceaccounts/token, of the package that signs tokens; nil if
	// no tokens are issued.
	Token *resource.Subresource[corev1.ServiceAccount]
	// Components are the parts of the control plane that ComponentStatuses tell of.
	Components []Component
}

// Resources are the rows of the group in the order of discovery.
func Resources(c Config) []*resource.Resource {
	var token []resource.Subresource[corev1.ServiceAccount]
	if c.Token != nil {
		token = append(token, *c.Token)
	}
	return []*resource.Resource{
		bindings(),
		componentStatuses(c.Components),
		configMaps(),
		endpoints(),
		events(),
		limitRanges(),
		namespaces(),
		nodes(),
		persistentVolumeClaims(),
		persistentVolumes(),
		pods(binding(), evictionSubresource()),
		podTemplates(),
		replicationControllers(),
		resourceQuotas(),
		secrets(),
		serviceAccounts(token...),
		services(c.Services),
	}
}

// proxyVerbs are the verbs of the proxy subresources, which pass on any HTTP
// method.
var proxyVerbs = []string{"create", "delete", "get", "patch", "update"}

func lower(s string) string { return strings.ToLower(s) }

func hasSlash(s string) bool { return strings.Contains(s, "/") }
