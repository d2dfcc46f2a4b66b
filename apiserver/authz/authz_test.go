package authz

import (
	"context"
	"iter"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/builtin"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// world is a store with the kinds the authorizer reads.
type world struct {
	*store.Store
	kinds []*resource.Resource
}

func newWorld(t *testing.T) world {
	t.Helper()
	kinds := builtin.Resources(builtin.Deps{})
	b := memory.New()
	t.Cleanup(func() { b.Close() })
	s, err := store.Open(t.Context(), store.Config{Backend: b, Resources: kinds})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return world{s, kinds}
}

func (w world) lookup(group, plural string) *resource.Resource {
	for _, r := range w.kinds {
		if r.Group == group && r.Plural == plural {
			return r.Stored
		}
	}
	return nil
}

func (w world) create(t *testing.T, group, plural string, objects ...resource.Object) {
	t.Helper()
	for _, obj := range objects {
		if _, err := w.Create(t.Context(), w.lookup(group, plural), obj, false); err != nil {
			t.Fatal(err)
		}
	}
}

// lagging is a source whose cache has nothing yet.
type lagging struct{ world }

func (l lagging) Snapshot(ctx context.Context, r *resource.Resource, m store.Match, min int64) ([]*store.Item, int64, error) {
	if min == 0 {
		return nil, 0, nil
	}
	return l.Store.Snapshot(ctx, r, m, min)
}

func (l lagging) Watch(ctx context.Context, r *resource.Resource, m store.Match, after int64) iter.Seq2[store.Step, error] {
	return l.Store.Watch(ctx, r, m, after)
}

func rules(verb, resource string) []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{{Verbs: []string{verb}, APIGroups: []string{""}, Resources: []string{resource}}}
}

func ref(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "1"}
}

// open makes an Authorizer with the default configuration.
func open(t *testing.T, nodeRules []rbacv1.PolicyRule) *Authorizer {
	t.Helper()
	z, err := Open(Config{NodeRules: nodeRules})
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func rbacWorld(t *testing.T) world {
	w := newWorld(t)
	g := rbacv1.GroupName
	w.create(t, g, "clusterroles",
		&rbacv1.ClusterRole{ObjectMeta: meta("", "reader"), Rules: rules("get", "pods")},
		&rbacv1.ClusterRole{ObjectMeta: meta("", "lister"), Rules: rules("list", "secrets")})
	w.create(t, g, "roles", &rbacv1.Role{ObjectMeta: meta("a", "writer"), Rules: rules("create", "pods")})
	w.create(t, g, "clusterrolebindings",
		&rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "all"), RoleRef: ref("ClusterRole", "reader"),
			Subjects: []rbacv1.Subject{{Kind: "Group", Name: "devs"}, {Kind: "ServiceAccount", Namespace: "a", Name: "robot"}}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "lost"), RoleRef: ref("ClusterRole", "gone"),
			Subjects: []rbacv1.Subject{{Kind: "User", Name: "lost"}}})
	w.create(t, g, "rolebindings",
		&rbacv1.RoleBinding{ObjectMeta: meta("a", "w"), RoleRef: ref("Role", "writer"), Subjects: []rbacv1.Subject{{Kind: "User", Name: "eve"}}},
		&rbacv1.RoleBinding{ObjectMeta: meta("a", "l"), RoleRef: ref("ClusterRole", "lister"), Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "robot"}}})
	return w
}

func TestAuthorizeRBAC(t *testing.T) {
	w := rbacWorld(t)
	z := open(t, nil)
	if err := z.Load(t.Context(), w, w.lookup); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, user, group, verb, resource, namespace string
		allowed                                      bool
		reason                                       string
	}{
		{"nobody", "x", "", "get", "pods", "a", false, ""},
		{"master", "x", "system:masters", "get", "pods", "a", true, ""},
		{"by group", "x", "devs", "get", "pods", "b", true, `RBAC: allowed by ClusterRoleBinding "all" of ClusterRole "reader" to Group "devs"`},
		{"a user named like the group", "devs", "", "get", "pods", "b", false, ""},
		{"service account", "system:serviceaccount:a:robot", "", "get", "pods", "", true, `RBAC: allowed by ClusterRoleBinding "all" of ClusterRole "reader" to ServiceAccount "robot/a"`},
		{"in its namespace", "eve", "", "create", "pods", "a", true, `RBAC: allowed by RoleBinding "w/a" of Role "writer" to User "eve"`},
		{"in another namespace", "eve", "", "create", "pods", "b", false, ""},
		{"in all namespaces", "eve", "", "create", "pods", "", false, ""},
		{"account of the binding's namespace", "system:serviceaccount:a:robot", "", "list", "secrets", "a", true, `RBAC: allowed by RoleBinding "l/a" of ClusterRole "lister" to ServiceAccount "robot/a"`},
		{"missing role", "lost", "", "get", "pods", "a", false, `RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found`},
	} {
		u := &user.DefaultInfo{Name: c.user}
		if c.group != "" {
			u.Groups = []string{c.group}
		}
		decision, reason, err := z.Authorize(t.Context(), authorizer.AttributesRecord{
			User: u, Verb: c.verb, Resource: c.resource, Namespace: c.namespace, ResourceRequest: true,
		})
		if err != nil || (decision == authorizer.DecisionAllow) != c.allowed || reason != c.reason {
			t.Errorf("%s: got %v %q, %v; want allowed %t, %q", c.name, decision, reason, err, c.allowed, c.reason)
		}
	}
}

// TestFollow checks that changes of roles and bindings take effect.
func TestFollow(t *testing.T) {
	w := rbacWorld(t)
	z := open(t, nil)
	if err := z.Load(t.Context(), w, w.lookup); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- z.Run(ctx) }()

	ask := authorizer.AttributesRecord{User: &user.DefaultInfo{Name: "new"}, Verb: "get", Resource: "pods", ResourceRequest: true}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "new"), RoleRef: ref("ClusterRole", "reader"), Subjects: []rbacv1.Subject{{Kind: "User", Name: "new"}}}
	w.create(t, rbacv1.GroupName, "clusterrolebindings", binding)
	eventually(t, z, ask, authorizer.DecisionAllow)

	kind := w.lookup(rbacv1.GroupName, "clusterrolebindings")
	item, err := w.Get(t.Context(), kind, "", "new")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Delete(t.Context(), kind, item, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, z, ask, authorizer.DecisionNoOpinion)

	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
}

func eventually(t *testing.T, z *Authorizer, ask authorizer.Attributes, want authorizer.Decision) {
	t.Helper()
	for range 1000 {
		if got, _, _ := z.Authorize(t.Context(), ask); got == want {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("the decision did not become %v", want)
}

func TestAuthorizeNode(t *testing.T) {
	w := newWorld(t)
	pod := func(namespace, name, node, secret string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: meta(namespace, name)}
		p.Spec.NodeName, p.Spec.ServiceAccountName = node, "sa-"+name
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}}}
		return p
	}
	mirror := pod("a", "mirror", "n1", "stolen")
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	one := pod("a", "one", "n1", "s1")
	one.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "c", ResourceClaimName: ptr.To("named")}, {Name: "t", ResourceClaimTemplateName: ptr.To("made")}, {Name: "u", ResourceClaimTemplateName: ptr.To("made")}}
	one.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "t", ResourceClaimName: ptr.To("one-t-x")}, {Name: "u"}}
	one.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "extended"}
	slice := func(name string, node *string) *resourcev1.ResourceSlice {
		return &resourcev1.ResourceSlice{ObjectMeta: meta("", name), Spec: resourcev1.ResourceSliceSpec{NodeName: node}}
	}
	w.create(t, "resource.k8s.io", "resourceslices", slice("own", ptr.To("n1")), slice("foreign", ptr.To("n2")), slice("everywhere", nil))
	w.create(t, "", "pods", one, pod("a", "two", "n2", "s2"), mirror)

	z := open(t, []rbacv1.PolicyRule{{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"events"}}})
	if err := z.Load(t.Context(), lagging{w}, w.lookup); err != nil {
		t.Fatal(err)
	}
	const unrelated = "no relationship found between node 'n1' and this object"
	for _, c := range []struct {
		name, verb, group, resource, sub, namespace, object string
		allowed                                             bool
		reason                                              string
	}{
		{"rule of all nodes", "create", "", "events", "", "a", "", true, ""},
		{"other kind", "get", "", "services", "", "a", "x", false, ""},
		{"secret of its pod", "get", "", "secrets", "", "a", "s1", true, ""},
		{"secret of its pod, watched", "watch", "", "secrets", "", "a", "s1", true, ""},
		{"secret of another node's pod", "get", "", "secrets", "", "a", "s2", false, unrelated},
		{"secret of that name elsewhere", "get", "", "secrets", "", "b", "s1", false, unrelated},
		{"secret of a mirror pod", "get", "", "secrets", "", "a", "stolen", false, unrelated},
		{"all secrets", "list", "", "secrets", "", "a", "", false, "No Object name found"},
		{"all secrets everywhere", "list", "", "secrets", "", "", "", false, "can only read namespaced object of this type"},
		{"write a secret", "update", "", "secrets", "", "a", "s1", false, "can only read resources of this type"},
		{"token for its pod", "create", "", "serviceaccounts", "token", "a", "sa-one", true, ""},
		{"token for another pod", "create", "", "serviceaccounts", "token", "a", "sa-two", false, unrelated},
		{"its node", "get", "", "nodes", "", "", "n1", true, ""},
		{"another node", "get", "", "nodes", "", "", "n2", false, "node 'n1' cannot read 'n2', only its own Node object"},
		{"all nodes", "list", "", "nodes", "", "", "", false, "node 'n1' cannot read all nodes, only its own Node object"},
		{"its lease", "update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n1", true, ""},
		{"another lease", "update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n2", false, "can only access node lease with the same name as the requesting node"},
		{"its pod", "get", "", "pods", "", "a", "one", true, ""},
		{"its mirror pod", "get", "", "pods", "", "a", "mirror", true, ""},
		{"another pod", "get", "", "pods", "", "a", "two", false, unrelated},
		{"all pods", "list", "", "pods", "", "", "", false, "can only list/watch pods with spec.nodeName field selector"},
		{"status of pods", "patch", "", "pods", "status", "a", "two", true, ""},
		{"claim for devices of its pod", "get", "resource.k8s.io", "resourceclaims", "", "a", "named", true, ""},
		{"claim made for its pod", "get", "resource.k8s.io", "resourceclaims", "", "a", "one-t-x", true, ""},
		{"claim made for extended resources", "get", "resource.k8s.io", "resourceclaims", "", "a", "extended", true, ""},
		{"template of a claim", "get", "resource.k8s.io", "resourceclaims", "", "a", "made", false, unrelated},
		{"claim of that name elsewhere", "get", "resource.k8s.io", "resourceclaims", "", "b", "named", false, unrelated},
		{"claims", "list", "resource.k8s.io", "resourceclaims", "", "a", "", false, "can only get individual resources of this type"},
		{"status of a claim", "get", "resource.k8s.io", "resourceclaims", "status", "a", "named", false, "cannot get subresource"},
		{"new slice", "create", "resource.k8s.io", "resourceslices", "", "", "", true, ""},
		{"its slice", "update", "resource.k8s.io", "resourceslices", "", "", "own", true, ""},
		{"another slice", "delete", "resource.k8s.io", "resourceslices", "", "", "foreign", false, unrelated},
		{"slice of all nodes", "get", "resource.k8s.io", "resourceslices", "", "", "everywhere", false, unrelated},
		{"slice that is not there", "get", "resource.k8s.io", "resourceslices", "", "", "none", false, unrelated},
		{"all slices", "list", "resource.k8s.io", "resourceslices", "", "", "", false, "can only list/watch/deletecollection resourceslices with nodeName field selector"},
		{"exec", "create", "", "pods", "exec", "a", "one", false, ""},
	} {
		u := &user.DefaultInfo{Name: "system:node:n1", Groups: []string{user.NodesGroup}}
		decision, reason, err := z.Authorize(t.Context(), authorizer.AttributesRecord{
			User: u, Verb: c.verb, APIGroup: c.group, Resource: c.resource, Subresource: c.sub,
			Namespace: c.namespace, Name: c.object, ResourceRequest: true,
		})
		if err != nil || (decision == authorizer.DecisionAllow) != c.allowed || reason != c.reason {
			t.Errorf("%s: got %v %q, %v; want allowed %t, %q", c.name, decision, reason, err, c.allowed, c.reason)
		}
	}

	own := authorizer.AttributesRecord{
		User: &user.DefaultInfo{Name: "system:node:n1", Groups: []string{user.NodesGroup}}, Verb: "watch", Resource: "pods", ResourceRequest: true,
		FieldSelectorRequirements: fields.Requirements{{Field: "spec.nodeName", Operator: selection.Equals, Value: "n1"}},
	}
	if got, reason, _ := z.Authorize(t.Context(), own); got != authorizer.DecisionAllow {
		t.Errorf("pods of its own by field selector: got %v %q, want Allow", got, reason)
	}
	own.User = &user.DefaultInfo{Name: "system:node:n1"}
	if got, _, _ := z.Authorize(t.Context(), own); got == authorizer.DecisionAllow {
		t.Errorf("a user outside system:nodes was taken for a node")
	}
}
