package discovery

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"slices"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// groupOrder is the order in which groups are listed; clients that know a kind
// by its short name alone take the first group that has it. Groups that are
// not here (custom resources) follow by name.
var groupOrder = []string{
	"apiregistration.k8s.io",
	"apps",
	"events.k8s.io",
	"authentication.k8s.io",
	"authorization.k8s.io",
	"autoscaling",
	"batch",
	"certificates.k8s.io",
	"networking.k8s.io",
	"policy",
	"rbac.authorization.k8s.io",
	"storage.k8s.io",
	"admissionregistration.k8s.io",
	"apiextensions.k8s.io",
	"scheduling.k8s.io",
	"coordination.k8s.io",
	"node.k8s.io",
	"discovery.k8s.io",
	"resource.k8s.io",
	"flowcontrol.apiserver.k8s.io",
}

type group struct {
	name     string
	versions []groupVersion // the preferred one first
}

type groupVersion struct {
	name      string
	resources []*resource.Resource // by plural
}

// splitGroups sorts resources into the core group and the named ones, in the
// order of discovery.
func splitGroups(resources []*resource.Resource) (core, named []group) {
	sorted := slices.SortedFunc(slices.Values(resources), func(a, b *resource.Resource) int {
		return cmp.Or(
			cmp.Compare(groupRank(a.Group), groupRank(b.Group)),
			cmp.Compare(a.Group, b.Group),
			-version.CompareKubeAwareVersionStrings(a.Version, b.Version),
			cmp.Compare(a.Plural, b.Plural),
		)
	})
	var groups []group
	for _, r := range sorted {
		if len(groups) == 0 || groups[len(groups)-1].name != r.Group {
			groups = append(groups, group{name: r.Group})
		}
		g := &groups[len(groups)-1]
		if len(g.versions) == 0 || g.versions[len(g.versions)-1].name != r.Version {
			g.versions = append(g.versions, groupVersion{name: r.Version})
		}
		v := &g.versions[len(g.versions)-1]
		v.resources = append(v.resources, r)
	}
	for _, g := range groups {
		if g.name == "" {
			core = append(core, g)
		} else {
			named = append(named, g)
		}
	}
	return core, named
}

func groupRank(name string) int {
	if i := slices.Index(groupOrder, name); i >= 0 {
		return i
	}
	return len(groupOrder)
}

// apiVersions is the document of /api. Like that of /api/v1 it carries no
// apiVersion: they predate groups.
func apiVersions(core []group, address string) *metav1.APIVersions {
	doc := &metav1.APIVersions{
		TypeMeta: metav1.TypeMeta{Kind: "APIVersions"},
		Versions: []string{},
		ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{
			{ClientCIDR: "0.0.0.0/0", ServerAddress: address},
		},
	}
	for _, g := range core {
		for _, v := range g.versions {
			doc.Versions = append(doc.Versions, v.name)
		}
	}
	return doc
}

func groupList(groups []group) *metav1.APIGroupList {
	doc := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{}}
	for _, g := range groups {
		entry := apiGroup(g)
		entry.TypeMeta = metav1.TypeMeta{}
		doc.Groups = append(doc.Groups, *entry)
	}
	return doc
}

func apiGroup(g group) *metav1.APIGroup {
	doc := &metav1.APIGroup{TypeMeta: metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}, Name: g.name}
	for _, v := range g.versions {
		doc.Versions = append(doc.Versions, metav1.GroupVersionForDiscovery{
			GroupVersion: schema.GroupVersion{Group: g.name, Version: v.name}.String(), Version: v.name,
		})
	}
	doc.PreferredVersion = doc.Versions[0]
	return doc
}

func resourceList(g group, v groupVersion) *metav1.APIResourceList {
	doc := &metav1.APIResourceList{
		TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
		GroupVersion: schema.GroupVersion{Group: g.name, Version: v.name}.String(),
	}
	if g.name == "" {
		doc.APIVersion = ""
	}
	for _, r := range v.resources {
		doc.APIResources = append(doc.APIResources, metav1.APIResource{
			Name: r.Plural, SingularName: r.Singular, Namespaced: r.Namespaced(), Kind: r.Kind,
			Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories,
			StorageVersionHash: storageVersionHash(r),
		})
		for _, s := range sortedSubs(r) {
			entry := metav1.APIResource{Name: r.Plural + "/" + s.Name, Namespaced: r.Namespaced(), Kind: r.Kind, Verbs: s.Verbs}
			if !s.Kind.Empty() {
				entry.Kind = s.Kind.Kind
			}
			if !s.Kind.Empty() && s.Kind.GroupVersion() != r.GroupVersion() {
				entry.Group, entry.Version = s.Kind.Group, s.Kind.Version
			}
			doc.APIResources = append(doc.APIResources, entry)
		}
	}
	return doc
}

func aggregated(groups []group) *apidiscovery.APIGroupDiscoveryList {
	doc := &apidiscovery.APIGroupDiscoveryList{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: apidiscovery.SchemeGroupVersion.String()},
		Items:    []apidiscovery.APIGroupDiscovery{},
	}
	for _, g := range groups {
		entry := apidiscovery.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.name}}
		for _, v := range g.versions {
			entry.Versions = append(entry.Versions, apidiscovery.APIVersionDiscovery{
				Version: v.name, Freshness: apidiscovery.DiscoveryFreshnessCurrent, Resources: aggregatedResources(v),
			})
		}
		doc.Items = append(doc.Items, entry)
	}
	return doc
}

func aggregatedResources(v groupVersion) []apidiscovery.APIResourceDiscovery {
	var list []apidiscovery.APIResourceDiscovery
	for _, r := range v.resources {
		entry := apidiscovery.APIResourceDiscovery{
			Resource: r.Plural, SingularResource: r.Singular, ResponseKind: responseKind(r, schema.GroupVersionKind{}),
			Scope: apidiscovery.ScopeNamespace, Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories,
		}
		if r.ClusterScoped {
			entry.Scope = apidiscovery.ScopeCluster
		}
		for _, s := range sortedSubs(r) {
			entry.Subresources = append(entry.Subresources, apidiscovery.APISubresourceDiscovery{
				Subresource: s.Name, ResponseKind: responseKind(r, s.Kind), Verbs: s.Verbs,
			})
		}
		list = append(list, entry)
	}
	return list
}

// responseKind names the kind an endpoint answers with. Group and version are
// left empty when they are those of the resource.
func responseKind(r *resource.Resource, kind schema.GroupVersionKind) *metav1.GroupVersionKind {
	switch {
	case kind.Empty():
		return &metav1.GroupVersionKind{Kind: r.Kind}
	case kind.GroupVersion() == r.GroupVersion():
		return &metav1.GroupVersionKind{Kind: kind.Kind}
	}
	return &metav1.GroupVersionKind{Group: kind.Group, Version: kind.Version, Kind: kind.Kind}
}

func sortedSubs(r *resource.Resource) []resource.Sub {
	return slices.SortedFunc(slices.Values(r.Subresources), func(a, b resource.Sub) int { return cmp.Compare(a.Name, b.Name) })
}

// storageVersionHash lets clients notice that a kind is stored in another
// version than before. Kinds that are not stored have none.
func storageVersionHash(r *resource.Resource) string {
	if !slices.Contains(r.Verbs, "watch") {
		return ""
	}
	gvk := r.Stored.GVK()
	sum := sha256.Sum256([]byte(gvk.Group + "/" + gvk.Version + "/" + gvk.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}
