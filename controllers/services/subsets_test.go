package services

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func pod(name, ip string, up bool, ports ...corev1.ContainerPort) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name)},
		Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Ports: ports}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}},
	}
	if up {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	return p
}

func wording(subsets []corev1.EndpointSubset) string {
	var words []string
	for _, s := range subsets {
		var parts []string
		for _, a := range s.Addresses {
			parts = append(parts, a.IP)
		}
		for _, a := range s.NotReadyAddresses {
			parts = append(parts, "!"+a.IP)
		}
		for _, p := range s.Ports {
			parts = append(parts, fmt.Sprintf(":%d", p.Port))
		}
		words = append(words, strings.Join(parts, " "))
	}
	return strings.Join(words, ", ")
}

func TestSubsetsOf(t *testing.T) {
	named := func(number int32) corev1.ContainerPort {
		return corev1.ContainerPort{Name: "http", ContainerPort: number, Protocol: corev1.ProtocolTCP}
	}
	port := func(name string, target intstr.IntOrString) corev1.ServicePort {
		return corev1.ServicePort{Name: name, Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: target}
	}
	for _, test := range []struct {
		name    string
		service corev1.ServiceSpec
		pods    []*corev1.Pod
		want    string
	}{
		{"none", corev1.ServiceSpec{Ports: []corev1.ServicePort{port("a", intstr.FromInt(8080))}}, nil, ""},
		{"ready and not", corev1.ServiceSpec{Ports: []corev1.ServicePort{port("a", intstr.FromInt(8080))}}, []*corev1.Pod{pod("a", "10.0.0.1", true), pod("b", "10.0.0.2", false)}, "10.0.0.1 !10.0.0.2 :8080"},
		{"published although not ready", corev1.ServiceSpec{PublishNotReadyAddresses: true, Ports: []corev1.ServicePort{port("a", intstr.FromInt(8080))}}, []*corev1.Pod{pod("b", "10.0.0.2", false)}, "10.0.0.2 :8080"},
		{"two ports", corev1.ServiceSpec{Ports: []corev1.ServicePort{port("a", intstr.FromInt(1)), port("b", intstr.FromInt(2))}}, []*corev1.Pod{pod("a", "10.0.0.1", true)}, "10.0.0.1 :1 :2"},
		{"a name for two numbers", corev1.ServiceSpec{Ports: []corev1.ServicePort{port("a", intstr.FromString("http"))}}, []*corev1.Pod{pod("a", "10.0.0.1", true, named(1)), pod("b", "10.0.0.2", true, named(2))}, "10.0.0.1 :1, 10.0.0.2 :2"},
		{"a name nobody has", corev1.ServiceSpec{Ports: []corev1.ServicePort{port("a", intstr.FromString("none"))}}, []*corev1.Pod{pod("a", "10.0.0.1", true)}, ""},
		{"headless without ports", corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}, []*corev1.Pod{pod("a", "10.0.0.1", true)}, "10.0.0.1"},
		{"another family", corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{corev1.IPv6Protocol}, Ports: []corev1.ServicePort{port("a", intstr.FromInt(1))}}, []*corev1.Pod{pod("a", "10.0.0.1", true)}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := wording(subsetsOf(&corev1.Service{Spec: test.service}, test.pods)); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestTruncate(t *testing.T) {
	subsets := func(counts ...[2]int) []corev1.EndpointSubset {
		var all []corev1.EndpointSubset
		for _, c := range counts {
			all = append(all, corev1.EndpointSubset{Addresses: make([]corev1.EndpointAddress, c[0]), NotReadyAddresses: make([]corev1.EndpointAddress, c[1])})
		}
		return all
	}
	for _, test := range []struct {
		name string
		has  [][2]int
		cut  bool
		want [][2]int
	}{
		{"few enough", [][2]int{{5, 5}}, false, [][2]int{{5, 5}}},
		{"those not ready go first", [][2]int{{8, 4}}, true, [][2]int{{8, 2}}},
		{"in proportion", [][2]int{{0, 20}, {5, 10}}, true, [][2]int{{0, 4}, {5, 1}}},
		{"even ready ones are too many", [][2]int{{15, 3}, {5, 0}}, true, [][2]int{{8, 0}, {2, 0}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			has := subsets(test.has...)
			cut := truncate(has, 10)
			var got [][2]int
			for _, s := range has {
				got = append(got, [2]int{len(s.Addresses), len(s.NotReadyAddresses)})
			}
			if cut != test.cut || fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("got %v, cut %v, want %v, %v", got, cut, test.want, test.cut)
			}
		})
	}
}

func TestMirrored(t *testing.T) {
	endpoints := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: "far", Annotations: map[string]string{corev1.EndpointsLastChangeTriggerTime: "x", "note": "y"}},
		Subsets: []corev1.EndpointSubset{{
			Addresses:         []corev1.EndpointAddress{{IP: "10.0.0.1"}, {IP: "fd00::1"}, {IP: "no address"}},
			NotReadyAddresses: []corev1.EndpointAddress{{IP: "10.0.0.2"}},
			Ports:             []corev1.EndpointPort{{Port: 80}},
		}},
	}
	wanted, invalid, skipped := mirrored(endpoints)
	if invalid != 1 || skipped != 0 || len(wanted) != 2 {
		t.Fatalf("got %d slices, %d invalid, %d skipped, want 2, 1, 0", len(wanted), invalid, skipped)
	}
	for key, slice := range wanted {
		want := 1
		if key.family == "IPv4" {
			want = 2
		}
		if len(slice.Endpoints) != want || len(slice.Annotations) != 1 || slice.Labels["kubernetes.io/service-name"] != "far" || slice.OwnerReferences[0].Kind != "Endpoints" {
			t.Errorf("%s: got %d endpoints, metadata %+v", key.family, len(slice.Endpoints), slice.ObjectMeta)
		}
	}
}

func TestMirrorable(t *testing.T) {
	for name, test := range map[string]struct {
		meta metav1.ObjectMeta
		want bool
	}{
		"plain":    {metav1.ObjectMeta{}, true},
		"a lock":   {metav1.ObjectMeta{Annotations: map[string]string{"control-plane.alpha.kubernetes.io/leader": "{}"}}, false},
		"declined": {metav1.ObjectMeta{Labels: map[string]string{"endpointslice.kubernetes.io/skip-mirror": "true"}}, false},
	} {
		if got := mirrorable(&corev1.Endpoints{ObjectMeta: test.meta}); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}
