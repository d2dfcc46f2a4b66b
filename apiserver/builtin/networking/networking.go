// Package networking holds the kinds of networking.k8s.io. Ingresses and
// network policies are kept for controllers and network plugins to act on;
// nothing here does.
package networking

import "github.com/skiff-k8s/skiff/apiserver/resource"

// Resources are the rows of the group in the order of discovery.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		ingressClasses(),
		ingresses(),
		ipAddresses(),
		networkPolicies(),
		serviceCIDRs(),
	}
}
