package pods

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/kubelet/env"
)

func TestExpandSubPath(t *testing.T) {
	lookup := env.Lookup(map[string]string{"POD": "web", "ABS": "/etc", "UP": "..", "EMPTY": ""})
	for _, test := range []struct{ name, path, expr, want, err string }{
		{name: "none"},
		{name: "plain", path: "a/b", want: "a/b"},
		{name: "expanded", expr: "x/$(POD)", want: "x/web"},
		{name: "plain is not expanded", path: "$(POD)", want: "$(POD)"},
		{name: "escaped", expr: "$$(POD)", want: "$(POD)"},
		{name: "missing", expr: "$(NO)/$(A)/$(NO)", err: "missing value for A, NO"},
		{name: "empty", expr: "a/$(EMPTY)", err: "missing value for EMPTY"},
		{name: "absolute", expr: "$(ABS)", err: "error SubPath `/etc` must not be an absolute path"},
		{name: "upwards", expr: "a/$(UP)", err: "unable to provision SubPath `a/..`: must not contain '..'"},
		{name: "two dots within a name", path: "a..b", want: "a..b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := expandSubPath(v1.VolumeMount{SubPath: test.path, SubPathExpr: test.expr}, lookup)
			if test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Errorf("error is %v, want %q", err, test.err)
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("subPath is %q (%v), want %q", got, err, test.want)
			}
		})
	}
}

func TestContainerSecurity(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u"}}
	root, user := imageUser{uid: ptr.To[int64](0)}, imageUser{name: "app"}
	for _, test := range []struct {
		name  string
		pod   v1.PodSecurityContext
		own   v1.SecurityContext
		image imageUser
		check func(*cri.LinuxContainerSecurityContext) bool
		err   string
	}{
		{name: "image's user id", image: root, check: func(s *cri.LinuxContainerSecurityContext) bool {
			return s.RunAsUser.Value == 0 && s.RunAsUsername == ""
		}},
		{name: "image's user name", image: user, check: func(s *cri.LinuxContainerSecurityContext) bool { return s.RunAsUser == nil && s.RunAsUsername == "app" }},
		{name: "container's user before the pod's", image: root, pod: v1.PodSecurityContext{RunAsUser: ptr.To[int64](1)}, own: v1.SecurityContext{RunAsUser: ptr.To[int64](2)},
			check: func(s *cri.LinuxContainerSecurityContext) bool { return s.RunAsUser.Value == 2 }},
		{name: "groups", image: root, pod: v1.PodSecurityContext{FSGroup: ptr.To[int64](5), SupplementalGroups: []int64{6}},
			check: func(s *cri.LinuxContainerSecurityContext) bool {
				return len(s.SupplementalGroups) == 2 && s.SupplementalGroups[0] == 5
			}},
		{name: "no escalation", image: root, own: v1.SecurityContext{AllowPrivilegeEscalation: ptr.To(false)},
			check: func(s *cri.LinuxContainerSecurityContext) bool { return s.NoNewPrivs }},
		{name: "unconfined without a profile", image: root,
			check: func(s *cri.LinuxContainerSecurityContext) bool {
				return s.Seccomp.ProfileType == cri.SecurityProfile_Unconfined
			}},
		{name: "pod's seccomp profile", image: root, pod: v1.PodSecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}},
			check: func(s *cri.LinuxContainerSecurityContext) bool {
				return s.Seccomp.ProfileType == cri.SecurityProfile_RuntimeDefault
			}},
		{name: "profile of the node stays below its directory", image: root, own: v1.SecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr.To("../../x.json")}},
			check: func(s *cri.LinuxContainerSecurityContext) bool { return s.Seccomp.LocalhostRef == "/seccomp/x.json" }},
		{name: "masked", image: root, check: func(s *cri.LinuxContainerSecurityContext) bool {
			return len(s.MaskedPaths) > 0 && len(s.ReadonlyPaths) > 0
		}},
		{name: "unmasked", image: root, own: v1.SecurityContext{ProcMount: ptr.To(v1.UnmaskedProcMount)},
			check: func(s *cri.LinuxContainerSecurityContext) bool {
				return len(s.MaskedPaths) == 0 && len(s.ReadonlyPaths) == 0
			}},
		{name: "root image must not be root", image: root, pod: v1.PodSecurityContext{RunAsNonRoot: ptr.To(true)},
			err: `container has runAsNonRoot and image will run as root (pod: "p_n(u)", container: c)`},
		{name: "named user cannot be verified", image: user, own: v1.SecurityContext{RunAsNonRoot: ptr.To(true)},
			err: `container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root (pod: "p_n(u)", container: c)`},
		{name: "asked to be root", image: user, own: v1.SecurityContext{RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To[int64](0)},
			err: `container's runAsUser breaks non-root policy (pod: "p_n(u)", container: c)`},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := pod.DeepCopy()
			p.Spec.SecurityContext = &test.pod
			got, err := containerSecurity(p, &v1.Container{Name: "c", SecurityContext: &test.own}, test.image, "", "/seccomp", false)
			if test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Errorf("error is %v, want %q", err, test.err)
				}
				return
			}
			if err != nil || !test.check(got) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestNamespaces(t *testing.T) {
	for _, test := range []struct {
		name string
		spec v1.PodSpec
		want [3]cri.NamespaceMode // network, ipc, pid
	}{
		{"own", v1.PodSpec{}, [3]cri.NamespaceMode{cri.NamespaceMode_POD, cri.NamespaceMode_POD, cri.NamespaceMode_CONTAINER}},
		{"shared processes", v1.PodSpec{ShareProcessNamespace: ptr.To(true)}, [3]cri.NamespaceMode{cri.NamespaceMode_POD, cri.NamespaceMode_POD, cri.NamespaceMode_POD}},
		{"the host's", v1.PodSpec{HostNetwork: true, HostIPC: true, HostPID: true}, [3]cri.NamespaceMode{cri.NamespaceMode_NODE, cri.NamespaceMode_NODE, cri.NamespaceMode_NODE}},
	} {
		o := namespaces(&v1.Pod{Spec: test.spec})
		if got := [3]cri.NamespaceMode{o.Network, o.Ipc, o.Pid}; got != test.want {
			t.Errorf("%s: namespaces are %v, want %v", test.name, got, test.want)
		}
	}
}

func TestSysctlNames(t *testing.T) {
	for name, want := range map[string]string{
		"kernel.shm_rmid_forced":     "kernel.shm_rmid_forced",
		"kernel/shm_rmid_forced":     "kernel.shm_rmid_forced",
		"net/ipv4/conf/eth0.100/mtu": "net.ipv4.conf.eth0/100.mtu",
		"net.ipv4.conf.eth0/100.mtu": "net.ipv4.conf.eth0/100.mtu",
	} {
		got := sysctls(&v1.Pod{Spec: v1.PodSpec{SecurityContext: &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: name, Value: "1"}}}}})
		if got[want] != "1" || len(got) != 1 {
			t.Errorf("%s becomes %v, want %s", name, got, want)
		}
	}
}

func TestUnsupported(t *testing.T) {
	for _, test := range []struct {
		name string
		spec v1.PodSpec
		want string
	}{
		{"nothing special", v1.PodSpec{HostUsers: ptr.To(true), Containers: []v1.Container{c("a")}}, ""},
		{"user namespace", v1.PodSpec{HostUsers: ptr.To(false)}, "user namespaces (hostUsers: false) are not supported by this node"},
		{"block device", v1.PodSpec{InitContainers: []v1.Container{{Name: "i", VolumeDevices: []v1.VolumeDevice{{Name: "v"}}}}},
			"block devices (volumeDevices of container i) are not supported by this node"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := ""
			if err := unsupported(&test.spec); err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
