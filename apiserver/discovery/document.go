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

type group struct {
	name     string
	versions []groupVersion // the preferred one first
}

// groupVersion is what this server serves, by plural, or another one does, or
// (neither) what an APIService only says there is.
type groupVersion struct {
	name      string
	resources []*resource.Resource
	remote    *Remote
	priority  Priority
}

func (v groupVersion) known() bool { return v.remote != nil || len(v.resources) > 0 }

// splitGroups sorts resources, and what services say, into the core group and
// the named ones, in the order of discovery.
func splitGroups(resources []*resource.Resource, services []Service) (core, named []group) {
	byName := make(map[string][]groupVersion)
	for gv, v := range groupVersions(resources, services) {
		byName[gv.Group] = append(byName[gv.Group], v)
	}
	var groups []group
	for name, versions := range byName {
		groups = append(groups, group{name, versions})
	}
	for _, g := range groups {
		slices.SortFunc(g.versions, func(a, b groupVersion) int {
			return cmp.Or(-cmp.Compare(a.priority.Version, b.priority.Version), -version.CompareKubeAwareVersionStrings(a.name, b.name))
		})
	}
	slices.SortFunc(groups, func(a, b group) int {
		return cmp.Or(-cmp.Compare(a.priority(), b.priority()), cmp.Compare(a.name, b.name))
	})
	for _, g := range groups {
		if g.name == "" {
			core = append(core, g)
		} else {
			named = append(named, g)
		}
	}
	return core, named
}

// priority is the highest of a group's versions.
func (g group) priority() int32 {
	return slices.MaxFunc(g.versions, func(a, b groupVersion) int { return cmp.Compare(a.priority.Group, b.priority.Group) }).priority.Group
}

// plainly puts groups in the order of the plain form, where those of one
// priority are ordered by the names of their APIServices, which begin with the
// version.
func plainly(groups []group) []group {
	first := func(g group) string {
		name := ""
		for _, v := range g.versions {
			if n := v.name + "." + g.name; v.priority.Group == g.priority() && (name == "" || n < name) {
				name = n
			}
		}
		return name
	}
	return slices.SortedFunc(slices.Values(groups), func(a, b group) int {
		return cmp.Or(-cmp.Compare(a.priority(), b.priority()), cmp.Compare(first(a), first(b)))
	})
}

// groupVersions are all that are described. What a service says goes before
// what follows from the rows.
func groupVersions(resources []*resource.Resource, services []Service) map[schema.GroupVersion]groupVersion {
	all := make(map[schema.GroupVersion]groupVersion)
	for _, r := range resources {
		v, ok := all[r.GroupVersion()]
		if !ok {
			v = groupVersion{name: r.Version, priority: PriorityOf(r.Group, r.Version)}
		}
		v.resources = append(v.resources, r)
		all[r.GroupVersion()] = v
	}
	for _, v := range all {
		slices.SortFunc(v.resources, func(a, b *resource.Resource) int { return cmp.Compare(a.Plural, b.Plural) })
	}
	for _, s := range services {
		gv := schema.GroupVersion{Group: s.Group, Version: s.Version}
		v := all[gv]
		v.name, v.remote, v.priority = s.Version, s.Remote, s.Priority
		if v.remote != nil {
			v.resources = nil
		}
		all[gv] = v
	}
	return all
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
			if v.known() {
				entry.Versions = append(entry.Versions, aggregatedVersion(v))
			}
		}
		if len(entry.Versions) > 0 {
			doc.Items = append(doc.Items, entry)
		}
	}
	return doc
}

func aggregatedVersion(v groupVersion) apidiscovery.APIVersionDiscovery {
	d := apidiscovery.APIVersionDiscovery{Version: v.name, Freshness: apidiscovery.DiscoveryFreshnessCurrent}
	if v.remote == nil {
		d.Resources = aggregatedResources(v)
		return d
	}
	d.Resources = v.remote.Resources
	if v.remote.Stale {
		d.Freshness = apidiscovery.DiscoveryFreshnessStale
	}
	return d
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
