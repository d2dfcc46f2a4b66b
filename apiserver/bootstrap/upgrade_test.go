package bootstrap_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/bootstrap"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/family"
)

const (
	autoUpdate = "rbac.authorization.kubernetes.io/autoupdate"
	defaults   = "kubernetes.io/bootstrapping"
)

// TestUpgrade changes default roles and bindings and starts again. What is left is what a start of kube-apiserver
// 1.36.3 left of the same changes.
func TestUpgrade(t *testing.T) {
	cluster := apiservertest.Start(t, nil).Cluster()
	for _, c := range []struct {
		plural, name string
		change       func(resource.Object) // nil: it is deleted
	}{
		{"clusterrolebindings", "system:discovery", func(o resource.Object) {
			o.SetLabels(map[string]string{"mine": "yes", defaults: "rbac-defaults"})
			o.(*rbacv1.ClusterRoleBinding).Subjects = []rbacv1.Subject{eve}
		}},
		{"clusterrolebindings", "system:public-info-viewer", nil},
		{"clusterrolebindings", "system:basic-user", func(o resource.Object) {
			o.SetLabels(nil)
			o.SetAnnotations(nil)
			o.(*rbacv1.ClusterRoleBinding).Subjects, o.(*rbacv1.ClusterRoleBinding).RoleRef.Name = []rbacv1.Subject{eve}, "view"
		}},
		{"clusterroles", "system:node-proxier", func(o resource.Object) {
			o.SetLabels(nil)
			o.SetAnnotations(nil)
			o.(*rbacv1.ClusterRole).Rules, o.(*rbacv1.ClusterRole).AggregationRule = nil, gather("x", "y")
		}},
		{"clusterroles", "admin", func(o resource.Object) {
			o.(*rbacv1.ClusterRole).Rules, o.(*rbacv1.ClusterRole).AggregationRule = []rbacv1.PolicyRule{mine}, nil
		}},
		{"clusterroles", "system:aggregate-to-admin", nil},
		{"clusterroles", "system:kube-dns", func(o resource.Object) {
			o.SetLabels(nil)
			o.SetAnnotations(map[string]string{autoUpdate: "false"})
			o.(*rbacv1.ClusterRole).Rules = nil
		}},
		{"clusterroles", "edit", func(o resource.Object) { o.(*rbacv1.ClusterRole).AggregationRule = gather("x", "y") }},
	} {
		if err := damage(t, cluster, c.plural, c.name, c.change); err != nil {
			t.Fatal(err)
		}
	}
	if err := bootstrap.Ensure(t.Context(), bootstrap.Config{
		Cluster: cluster, Advertise: netip.MustParseAddrPort("192.0.2.1:6443"),
		ServiceCIDRs: family.MustParse("10.96.0.0/16"), ServiceIP: netip.MustParseAddr("10.96.0.1"),
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ plural, name, want string }{
		{"clusterrolebindings", "system:discovery", "[kubernetes.io/bootstrapping mine] true system:discovery [eve system:authenticated]"},
		{"clusterrolebindings", "system:public-info-viewer", "[kubernetes.io/bootstrapping mine] true system:public-info-viewer [eve system:authenticated system:unauthenticated]"},
		{"clusterrolebindings", "system:basic-user", "[kubernetes.io/bootstrapping] true system:basic-user [system:authenticated]"},
		{"clusterroles", "system:node-proxier", "[kubernetes.io/bootstrapping] true [] 17 rules"},
		{"clusterroles", "admin", "[kubernetes.io/bootstrapping] true [rbac.authorization.k8s.io/aggregate-to-admin=true] 1 rules"},
		{"clusterroles", "system:aggregate-to-admin", "[kubernetes.io/bootstrapping rbac.authorization.k8s.io/aggregate-to-admin] true [] 18 rules"},
		{"clusterroles", "system:kube-dns", "[] false [] 0 rules"},
		{"clusterroles", "edit", "[kubernetes.io/bootstrapping rbac.authorization.k8s.io/aggregate-to-admin] true [x=y rbac.authorization.k8s.io/aggregate-to-edit=true] "},
	} {
		obj, err := cluster.Get(t.Context(), cluster.Resource(rbacv1.GroupName, c.plural), "", c.name)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := shown(obj); got != c.want {
			t.Errorf("%s %s\ngot  %s\nwant %s", c.plural, c.name, got, c.want)
		}
	}
}

// TestUpgradeKeepsOut: who was kept from discovery by an administrator who manages that binding is kept from the
// binding that came of it.
func TestUpgradeKeepsOut(t *testing.T) {
	cluster := apiservertest.Start(t, nil).Cluster()
	err := damage(t, cluster, "clusterrolebindings", "system:discovery", func(o resource.Object) {
		o.SetAnnotations(map[string]string{autoUpdate: "false"})
		o.(*rbacv1.ClusterRoleBinding).Subjects = []rbacv1.Subject{eve}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := damage(t, cluster, "clusterrolebindings", "system:public-info-viewer", nil); err != nil {
		t.Fatal(err)
	}
	if err := bootstrap.Ensure(t.Context(), bootstrap.Config{
		Cluster: cluster, ServiceCIDRs: family.MustParse("10.96.0.0/16"), ServiceIP: netip.MustParseAddr("10.96.0.1"),
	}); err != nil {
		t.Fatal(err)
	}
	obj, err := cluster.Get(t.Context(), cluster.Resource(rbacv1.GroupName, "clusterrolebindings"), "", "system:public-info-viewer")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := shown(obj), "[kubernetes.io/bootstrapping] false system:public-info-viewer [eve]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

var (
	eve  = rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: "eve"}
	mine = rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{"mine"}, Resources: []string{"things"}}
)

func gather(label, value string) *rbacv1.AggregationRule {
	return &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{label: value}}}}
}

// damage changes an object past all checks, or deletes it.
func damage(t *testing.T, cluster resource.Cluster, plural, name string, change func(resource.Object)) error {
	kind := cluster.Resource(rbacv1.GroupName, plural)
	if change == nil {
		_, err := cluster.Delete(t.Context(), kind, "", name, nil)
		return err
	}
	_, err := cluster.Update(t.Context(), kind, "", name, false, func(obj resource.Object) error {
		change(obj)
		return nil
	})
	return err
}

// shown is what matters of a role or a binding. The rules that aggregated roles have are a controller's, but for what
// an administrator wrote.
func shown(obj resource.Object) string {
	meta := fmt.Sprint(slices.Sorted(maps.Keys(obj.GetLabels())), " ", obj.GetAnnotations()[autoUpdate], " ")
	if b, ok := obj.(*rbacv1.ClusterRoleBinding); ok {
		var names []string
		for _, s := range b.Subjects {
			names = append(names, s.Name)
		}
		return meta + b.RoleRef.Name + " " + fmt.Sprint(names)
	}
	r := obj.(*rbacv1.ClusterRole)
	var selectors []string
	if r.AggregationRule != nil {
		for _, s := range r.AggregationRule.ClusterRoleSelectors {
			for k, v := range s.MatchLabels {
				selectors = append(selectors, k+"="+v)
			}
		}
	}
	rules := ""
	if r.AggregationRule == nil || len(r.Rules) == 1 {
		rules = fmt.Sprint(len(r.Rules), " rules")
	}
	return meta + fmt.Sprint(selectors) + " " + rules
}
