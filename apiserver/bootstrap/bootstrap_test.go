package bootstrap_test

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/bootstrap"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/family"
)

// TestRepair damages default objects and checks what a start makes of it.
func TestRepair(t *testing.T) {
	s := apiservertest.Start(t, nil)
	cluster := s.Cluster()
	change := func(plural, name string, change func(resource.Object)) {
		t.Helper()
		_, err := cluster.Update(t.Context(), cluster.Resource(rbacv1.GroupName, plural), "", name, false, func(obj resource.Object) error {
			change(obj)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	rules := func(name string) []rbacv1.PolicyRule {
		t.Helper()
		obj, err := cluster.Get(t.Context(), cluster.Resource(rbacv1.GroupName, "clusterroles"), "", name)
		if err != nil {
			t.Fatal(err)
		}
		return obj.(*rbacv1.ClusterRole).Rules
	}
	own := rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{"example.com"}, Resources: []string{"things"}}
	before := len(rules("system:node-proxier"))
	damage := func(obj resource.Object) {
		obj.(*rbacv1.ClusterRole).Rules = []rbacv1.PolicyRule{own}
	}
	change("clusterroles", "system:node-proxier", damage)
	change("clusterroles", "system:kube-dns", func(obj resource.Object) {
		damage(obj)
		obj.SetAnnotations(map[string]string{"rbac.authorization.kubernetes.io/autoupdate": "false"})
	})
	change("clusterrolebindings", "system:discovery", func(obj resource.Object) {
		obj.(*rbacv1.ClusterRoleBinding).Subjects = []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "eve"}}
	})

	config := bootstrap.Config{
		Cluster: cluster, Advertise: netip.MustParseAddrPort("192.0.2.1:6443"),
		ServiceCIDRs: family.MustParse("10.96.0.0/16"), ServiceIP: netip.MustParseAddr("10.96.0.1"),
	}
	if err := bootstrap.Ensure(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if got := rules("system:node-proxier"); len(got) <= before || got[0].APIGroups[0] != "example.com" {
		t.Errorf("got rules %v, want what was added and the %d default ones", got, before)
	}
	if got := rules("system:kube-dns"); len(got) != 1 {
		t.Errorf("got rules %v, want only what the administrator wrote", got)
	}
	obj, err := cluster.Get(t.Context(), cluster.Resource(rbacv1.GroupName, "clusterrolebindings"), "", "system:discovery")
	if err != nil {
		t.Fatal(err)
	}
	if got := obj.(*rbacv1.ClusterRoleBinding).Subjects; len(got) != 2 || got[0].Name != "eve" || got[1].Name != "system:authenticated" {
		t.Errorf("got subjects %v, want eve and system:authenticated", got)
	}
}

// TestStartsAtOnce: servers that start at once make the same objects, of which Services claim their addresses first.
// None of them is kept from serving by that, nor by a claim that a server left that was killed.
func TestStartsAtOnce(t *testing.T) {
	cluster := apiservertest.Start(t, nil).Cluster()
	config := bootstrap.Config{
		Cluster: cluster, Advertise: netip.MustParseAddrPort("192.0.2.1:6443"),
		ServiceCIDRs: family.MustParse("10.96.0.0/16"), ServiceIP: netip.MustParseAddr("10.96.0.1"),
	}
	services, addresses := cluster.Resource("", "services"), cluster.Resource("networking.k8s.io", "ipaddresses")
	remove := func() {
		t.Helper()
		if _, err := cluster.Delete(t.Context(), services, "default", "kubernetes", &metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		remove()
		var servers errgroup.Group
		for range 4 {
			servers.Go(func() error { return bootstrap.Ensure(t.Context(), config) })
		}
		if err := servers.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	remove()
	claim := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: "10.96.0.1", Labels: map[string]string{networkingv1.LabelManagedBy: "ipallocator.k8s.io", networkingv1.LabelIPAddressFamily: "IPv4"}},
		Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "kubernetes"}},
	}
	if _, err := cluster.Create(t.Context(), addresses, claim); err != nil {
		t.Fatal(err)
	}
	if err := bootstrap.Ensure(t.Context(), config); err != nil {
		t.Errorf("a claim without its Service keeps a server from starting: %v", err)
	}
	if _, err := cluster.Delete(t.Context(), addresses, "", claim.Name, &metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := bootstrap.Ensure(t.Context(), config); err != nil {
		t.Error(err)
	}
	if _, err := cluster.Get(t.Context(), services, "default", "kubernetes"); err != nil {
		t.Errorf("without the claim: %v", err)
	}
}

// TestServersListEachOther: the endpoints are all servers that live; one that ends is taken out.
func TestServersListEachOther(t *testing.T) {
	var shared backend.Backend
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		shared, o.Advertise = o.Backend, netip.MustParseAddrPort("127.0.0.1:6443") // it does not count itself
	})
	cluster := s.Cluster()
	server := func(address string) bootstrap.Config {
		return bootstrap.Config{
			Cluster: cluster, Backend: shared, Advertise: netip.MustParseAddrPort(address), Every: 10 * time.Millisecond,
			ServiceCIDRs: family.MustParse("10.96.0.0/16"), ServiceIP: netip.MustParseAddr("10.96.0.1"),
		}
	}
	told := func() (endpoints, slice []string) {
		t.Helper()
		obj, err := cluster.Get(t.Context(), cluster.Resource("", "endpoints"), "default", "kubernetes")
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range obj.(*corev1.Endpoints).Subsets[0].Addresses {
			endpoints = append(endpoints, a.IP)
		}
		if obj, err = cluster.Get(t.Context(), cluster.Resource(discoveryv1.GroupName, "endpointslices"), "default", "kubernetes"); err != nil {
			t.Fatal(err)
		}
		for _, e := range obj.(*discoveryv1.EndpointSlice).Endpoints {
			slice = append(slice, e.Addresses...)
		}
		return endpoints, slice
	}
	first, second := server("192.0.2.2:6443"), server("192.0.2.1:6443")
	for _, c := range []bootstrap.Config{first, second} {
		if err := bootstrap.Ensure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"192.0.2.1", "192.0.2.2"}
	if endpoints, slice := told(); !slices.Equal(endpoints, want) || !slices.Equal(slice, want) {
		t.Errorf("with two servers, endpoints say %v, slice %v; want %v", endpoints, slice, want)
	}
	ctx, end := context.WithCancel(t.Context())
	end()
	if err := bootstrap.Run(ctx, second); err != nil { // it ends at once, and says so
		t.Fatal(err)
	}
	if err := bootstrap.Ensure(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	want = []string{"192.0.2.2"}
	if endpoints, slice := told(); !slices.Equal(endpoints, want) || !slices.Equal(slice, want) {
		t.Errorf("with one left, endpoints say %v, slice %v; want %v", endpoints, slice, want)
	}
}

// TestEndpoints checks that the way to the API follows its address, and that a
// loopback address, which means another machine elsewhere, is not told.
func TestEndpoints(t *testing.T) {
	s := apiservertest.Start(t, nil)
	cluster := s.Cluster()
	ensure := func(address string) {
		t.Helper()
		err := bootstrap.Ensure(t.Context(), bootstrap.Config{
			Cluster: cluster, Advertise: netip.MustParseAddrPort(address),
			ServiceCIDRs: family.MustParse("10.96.0.0/16"), ServiceIP: netip.MustParseAddr("10.96.0.1"),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	told := func() (endpoints, slice string) {
		t.Helper()
		obj, err := cluster.Get(t.Context(), cluster.Resource("", "endpoints"), "default", "kubernetes")
		if err != nil {
			t.Fatal(err)
		}
		endpoints = obj.(*corev1.Endpoints).Subsets[0].Addresses[0].IP
		if obj, err = cluster.Get(t.Context(), cluster.Resource(discoveryv1.GroupName, "endpointslices"), "default", "kubernetes"); err != nil {
			t.Fatal(err)
		}
		return endpoints, obj.(*discoveryv1.EndpointSlice).Endpoints[0].Addresses[0]
	}
	for _, c := range []struct{ address, want string }{
		{"192.0.2.7:6443", "192.0.2.7"},
		{"127.0.0.1:6443", "192.0.2.7"},
	} {
		ensure(c.address)
		if endpoints, slice := told(); endpoints != c.want || slice != c.want {
			t.Errorf("advertised at %s: endpoints say %s, slice %s; want %s", c.address, endpoints, slice, c.want)
		}
	}
}

// TestRun checks that a namespace of the system comes back.
func TestRun(t *testing.T) {
	s := apiservertest.Start(t, nil)
	cluster := s.Cluster()
	namespaces := cluster.Resource("", "namespaces")
	_, err := cluster.Update(t.Context(), namespaces, "", "kube-node-lease", false, func(obj resource.Object) error {
		obj.(*corev1.Namespace).Spec.Finalizers = nil
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Delete(t.Context(), namespaces, "", "kube-node-lease", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Get(t.Context(), namespaces, "", "kube-node-lease"); !apierrors.IsNotFound(err) {
		t.Fatalf("the namespace is still there: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	done := make(chan error, 1)
	go func() {
		done <- bootstrap.Run(ctx, bootstrap.Config{
			Cluster: cluster, Every: time.Millisecond,
			ServiceCIDRs: family.MustParse("10.96.0.0/16"), ServiceIP: netip.MustParseAddr("10.96.0.1"),
		})
	}()
	found := false
	for ctx.Err() == nil && !found {
		_, err := cluster.Get(ctx, namespaces, "", "kube-node-lease")
		found = err == nil
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
	if !found {
		t.Error("the namespace did not come back")
	}
}
