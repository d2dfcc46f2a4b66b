package discovery

import (
	apidiscovery "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/equality"
)

// Service is what an APIService says of a group version, besides what follows
// from the rows that are served.
type Service struct {
	Group, Version string
	Priority       Priority
	// Remote is set if another server serves it.
	Remote *Remote
}

// Remote is what another server says of a group version. It is not changed.
type Remote struct {
	Resources []apidiscovery.APIResourceDiscovery
	// Stale: the server could not be asked; what it has is not known.
	Stale bool
}

// Equal reports whether r and other say the same.
func (r *Remote) Equal(other *Remote) bool {
	return r.Stale == other.Stale && equality.Semantic.DeepEqual(r.Resources, other.Resources)
}

// Priority is the place of a group version: a group comes before those with a
// lower number, and in it a version. Clients that know a kind by its short name
// alone take the first group that has it, and of it the first version.
type Priority struct{ Group, Version int32 }

// PriorityOf is the place of a group version that no APIService has put
// elsewhere. Groups that are not here (custom resources) come last, by name.
func PriorityOf(group, version string) Priority {
	if p, ok := priorities[group+"/"+version]; ok {
		return p
	}
	return Priority{1000, 100}
}

// priorities are those of built-in group versions, as kube-apiserver has them.
var priorities = map[string]Priority{
	"/v1":                             {18000, 1},
	"apiregistration.k8s.io/v1":       {20000, 18},
	"apps/v1":                         {17800, 15},
	"events.k8s.io/v1":                {17750, 15},
	"authentication.k8s.io/v1":        {17700, 15},
	"authorization.k8s.io/v1":         {17600, 15},
	"autoscaling/v2":                  {17500, 30},
	"autoscaling/v1":                  {17500, 15},
	"batch/v1":                        {17400, 15},
	"certificates.k8s.io/v1":          {17300, 15},
	"networking.k8s.io/v1":            {17200, 15},
	"policy/v1":                       {17100, 15},
	"rbac.authorization.k8s.io/v1":    {17000, 15},
	"storage.k8s.io/v1":               {16800, 15},
	"admissionregistration.k8s.io/v1": {16700, 15},
	"apiextensions.k8s.io/v1":         {16700, 15},
	"scheduling.k8s.io/v1":            {16600, 15},
	"coordination.k8s.io/v1":          {16500, 15},
	"node.k8s.io/v1":                  {16300, 15},
	"discovery.k8s.io/v1":             {16200, 15},
	"resource.k8s.io/v1":              {16200, 21},
	"flowcontrol.apiserver.k8s.io/v1": {16100, 21},
	"metrics.k8s.io/v1beta1":          {100, 100}, // as the manifests of metrics-server say
}
