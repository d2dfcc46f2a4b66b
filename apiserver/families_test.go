package apiserver_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/family"
)

// TestOldServices: Services that were stored before there were families, or
// several addresses, are read with those that they have had since, and can be
// found, watched and written so.
func TestOldServices(t *testing.T) {
	specs := map[string]string{
		"usual":    `{"clusterIP":"10.96.0.7","selector":{"a":"b"},"ports":[{"port":80}]}`,
		"six":      `{"clusterIP":"fd00:96::7","ports":[{"port":80}]}`,
		"headless": `{"clusterIP":"None","selector":{"a":"b"}}`,
		"foreign":  `{"clusterIP":"None"}`,
		"external": `{"type":"ExternalName","externalName":"example.com","internalTrafficPolicy":"Cluster"}`,
	}
	want := map[string]string{
		"usual":    "SingleStack [IPv4] [10.96.0.7]",
		"six":      "SingleStack [IPv6] [fd00:96::7]",
		"headless": "SingleStack [IPv6] [None]",
		"foreign":  "RequireDualStack [IPv6 IPv4] [None]",
		"external": "- [] []",
	}
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.ServiceCIDRs, o.Advertise = family.MustParse("fd00:96::/108,10.96.0.0/16"), netip.MustParseAddrPort("[2001:db8::1]:6443")
		for name, spec := range specs {
			stored := fmt.Sprintf(`{"apiVersion":"v1","kind":"Service","metadata":{"name":%q,"namespace":"default","uid":%[1]q},"spec":%s}`, name, spec)
			if _, err := o.Backend.Put(t.Context(), "/registry/services/specs/default/"+name, []byte(stored), backend.Absent, 0); err != nil {
				t.Fatal(err)
			}
		}
	})
	services := clientOf(t, s).CoreV1().Services("default")
	list, err := services.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, listed := range list.Items {
		if specs[listed.Name] == "" {
			continue
		}
		seen++
		got, err := services.Get(t.Context(), listed.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		// Written again, it is what was read.
		changed, err := services.Patch(t.Context(), listed.Name, types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for what, is := range map[string]*corev1.Service{"listed": &listed, "got": got, "written": changed} {
			if families := familiesOf(is); families != want[is.Name] {
				t.Errorf("%s as it is %s: %s, want %s", is.Name, what, families, want[is.Name])
			}
			if is.Name == "external" && is.Spec.InternalTrafficPolicy != nil {
				t.Errorf("an ExternalName as it is %s has an internal traffic policy", what)
			}
		}
	}
	if seen != len(specs) {
		t.Errorf("%d of %d Services are listed", seen, len(specs))
	}
}

func familiesOf(s *corev1.Service) string {
	policy := corev1.IPFamilyPolicy("-")
	if s.Spec.IPFamilyPolicy != nil {
		policy = *s.Spec.IPFamilyPolicy
	}
	return fmt.Sprintf("%s %v %v", policy, s.Spec.IPFamilies, s.Spec.ClusterIPs)
}

func clientOf(t *testing.T, s *apiserver.Server) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(apiservertest.Config(s, "admin"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestASecondFamily gives a cluster that had one a second: its range grows, and its
// Services stay as they are until they are told.
func TestASecondFamily(t *testing.T) {
	shared := memory.New()
	start := func(ranges string) kubernetes.Interface {
		return clientOf(t, apiservertest.Start(t, func(o *apiserver.Options) { o.Backend, o.ServiceCIDRs = shared, family.MustParse(ranges) }))
	}
	prefer := corev1.IPFamilyPolicyPreferDualStack
	before := start("10.96.0.0/24")
	made, err := before.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "s"},
		Spec:       corev1.ServiceSpec{IPFamilyPolicy: &prefer, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	address := made.Spec.ClusterIP
	if got, want := familiesOf(made), "PreferDualStack [IPv4] ["+address+"]"; got != want {
		t.Errorf("in a cluster of one family: %s, want %s", got, want)
	}

	after := start("10.96.0.0/24,fd00:96::/108")
	r, err := after.NetworkingV1().ServiceCIDRs().Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil || !slices.Equal(r.Spec.CIDRs, []string{"10.96.0.0/24", "fd00:96::/108"}) || len(r.Status.Conditions) != 1 || r.Status.Conditions[0].Status != "True" {
		t.Errorf("the range: got %+v, %v", r, err)
	}
	kubernetes, err := after.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil || familiesOf(kubernetes) != "SingleStack [IPv4] [10.96.0.1]" {
		t.Errorf("default/kubernetes: got %s, %v", familiesOf(kubernetes), err)
	}
	for _, step := range []struct{ patch, want string }{
		{`{"metadata":{"labels":{"a":"b"}}}`, "PreferDualStack [IPv4] [" + address + "]"},
		{`{"spec":{"ipFamilyPolicy":"RequireDualStack"}}`, "RequireDualStack [IPv4 IPv6] [" + address + " fd00:96::"},
	} {
		changed, err := after.CoreV1().Services("default").Patch(t.Context(), "s", types.MergePatchType, []byte(step.patch), metav1.PatchOptions{})
		if err != nil || !strings.HasPrefix(familiesOf(changed), step.want) {
			t.Errorf("%s: got %s, %v, want %s", step.patch, familiesOf(changed), err, step.want)
		}
	}
}

// TestAdvertisedFamily: pods reach the API by the primary family.
func TestAdvertisedFamily(t *testing.T) {
	_, err := apiserver.Standard(t.Context(), apiserver.Options{
		Backend: memory.New(), ServiceCIDRs: family.MustParse("fd00:96::/108,10.96.0.0/16"), Advertise: netip.MustParseAddrPort("192.0.2.1:6443"),
	})
	if want := `service IP family "IPv6" must match public address family "IPv4"`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
