package sysctl

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestRefuse(t *testing.T) {
	for _, test := range []struct {
		kernel, sysctl   string
		unsafe           []string
		hostNet, hostIPC bool
		want             string
	}{
		{sysctl: "kernel.shm_rmid_forced"},
		{sysctl: "kernel/shm_rmid_forced"},
		{sysctl: "kernel.shm_rmid_forced", hostNet: true},
		{sysctl: "kernel.shm_rmid_forced", hostIPC: true, want: `forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host IPC enabled`},
		{sysctl: "net.ipv4.tcp_syncookies", hostIPC: true},
		{sysctl: "net/ipv4/tcp_syncookies", hostNet: true, want: `forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host Net enabled`},
		{sysctl: "kernel.msgmax", want: `forbidden sysctl: "kernel.msgmax" not allowlisted`},
		{sysctl: "net.ipv4.conf.all.forwarding", want: `forbidden sysctl: "net.ipv4.conf.all.forwarding" not allowlisted`},
		{sysctl: "net.ipv4.tcp_syncookies2", want: `forbidden sysctl: "net.ipv4.tcp_syncookies2" not allowlisted`},
		{sysctl: "vm.swappiness", unsafe: []string{"net.*"}, want: `forbidden sysctl: "vm.swappiness" not allowlisted`},

		{sysctl: "net.ipv4.tcp_wmem", kernel: "4.14.9", want: `forbidden sysctl: "net.ipv4.tcp_wmem" not allowlisted`},
		{sysctl: "net.ipv4.tcp_wmem", kernel: "4.15.0-generic"},
		{sysctl: "net.ipv4.tcp_wmem", kernel: "6.1.0-rc1+"},
		{sysctl: "net.ipv4.ip_local_reserved_ports", kernel: "", want: `forbidden sysctl: "net.ipv4.ip_local_reserved_ports" not allowlisted`},
		{sysctl: "net.ipv4.ip_local_reserved_ports", kernel: "3.16"},

		{sysctl: "kernel.msgmax", unsafe: []string{"kernel.msg*"}},
		{sysctl: "kernel.msgmax", unsafe: []string{"kernel.msgmax"}},
		{sysctl: "kernel.msgmax", unsafe: []string{"kernel.msg*"}, hostIPC: true, want: `forbidden sysctl: "kernel.msgmax" not allowed with host IPC enabled`},
		{sysctl: "net.core.somaxconn", unsafe: []string{"net/core/somaxconn"}},
		{sysctl: "net.core.somaxconn", unsafe: []string{"net.*"}, hostNet: true, want: `forbidden sysctl: "net.core.somaxconn" not allowed with host Net enabled`},
		{sysctl: "fs.mqueue.msg_max", unsafe: []string{"fs.mqueue.*"}},
	} {
		l, err := NewList(test.unsafe, test.kernel)
		if err != nil {
			t.Fatal(err)
		}
		pod := &v1.Pod{Spec: v1.PodSpec{
			HostNetwork: test.hostNet, HostIPC: test.hostIPC,
			SecurityContext: &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: test.sysctl}}},
		}}
		got := ""
		if err := l.Refuse(pod); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s on kernel %q with %v: %q, want %q", test.sysctl, test.kernel, test.unsafe, got, test.want)
		}
	}
	l, err := NewList(nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Refuse(&v1.Pod{}); err != nil {
		t.Errorf("a pod without sysctls: %v", err)
	}
}

func TestNewList(t *testing.T) {
	for name, want := range map[string]string{
		"vm.swappiness":   `the sysctls "vm.swappiness" are not known to be namespaced`,
		"kernel.*":        `the sysctls "kernel." are not known to be namespaced`,
		"*":               `the sysctls "" are not known to be namespaced`,
		"kernel/sched_rt": `the sysctls "kernel.sched_rt" are not known to be namespaced`,
		"net.*.x":         `sysctl "net.*.x" must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9*]$`,
	} {
		if _, err := NewList([]string{name}, "6.1"); err == nil || err.Error() != want {
			t.Errorf("%s: error %v, want %s", name, err, want)
		}
	}
}
