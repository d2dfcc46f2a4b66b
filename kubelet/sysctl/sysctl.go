// Package sysctl says which kernel settings a pod may have: those that belong to one of its own namespaces
// and, unless the node allows more, concern nobody else.
package sysctl

import (
	"fmt"
	"log/slog"
	"regexp"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
	names "k8s.io/component-helpers/node/util/sysctl"
)

// safe are the sysctls that any pod may set, each with the kernel since which it belongs to a namespace.
var safe = []struct{ name, kernel string }{
	{name: "kernel.shm_rmid_forced"},
	{name: "net.ipv4.ip_local_port_range"},
	{name: "net.ipv4.tcp_syncookies"},
	{name: "net.ipv4.ping_group_range"},
	{name: "net.ipv4.ip_unprivileged_port_start"},
	{"net.ipv4.ip_local_reserved_ports", "3.16"},
	{"net.ipv4.tcp_keepalive_time", "4.5"},
	{"net.ipv4.tcp_fin_timeout", "4.6"},
	{"net.ipv4.tcp_keepalive_intvl", "4.5"},
	{"net.ipv4.tcp_keepalive_probes", "4.5"},
	{"net.ipv4.tcp_rmem", "4.15"},
	{"net.ipv4.tcp_wmem", "4.15"},
}

// pattern and maxLength are what the API takes as a sysctl's name, here with an asterisk at its end.
var pattern = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9*]$`)

const maxLength = 253

// List are the sysctls that pods of a node may set.
type List struct {
	names, beginnings map[string]names.Namespace
}

// NewList makes the list of the safe sysctls of a kernel and of others that the node allows: names, or
// beginnings that end in "*". Those must belong to a namespace too.
func NewList(unsafe []string, kernel string) (*List, error) {
	l := &List{names: map[string]names.Namespace{}, beginnings: map[string]names.Namespace{}}
	for _, name := range append(safeOf(kernel), unsafe...) {
		if len(name) > maxLength || !pattern.MatchString(name) {
			return nil, fmt.Errorf("sysctl %q must have at most %d characters and match regex %s", name, maxLength, pattern)
		}
		namespace, text, beginning := names.GetNamespace(name)
		switch {
		case namespace == names.UnknownNamespace:
			return nil, fmt.Errorf("the sysctls %q are not known to be namespaced", text)
		case beginning:
			l.beginnings[text] = namespace
		default:
			l.names[text] = namespace
		}
	}
	return l, nil
}

// safeOf are the safe sysctls that belong to a namespace with this kernel.
func safeOf(kernel string) []string {
	running, err := version.ParseGeneric(kernel)
	if err != nil && kernel != "" {
		slog.Warn("version of the kernel not understood, fewer sysctls are safe", "kernel", kernel, "error", err)
	}
	var all []string
	for _, s := range safe {
		if s.kernel == "" || running != nil && running.AtLeast(version.MustParseGeneric(s.kernel)) {
			all = append(all, s.name)
		}
	}
	return all
}

// Refuse says why a pod may not have the sysctls that it asks for, nil if it may.
func (l *List) Refuse(pod *v1.Pod) error {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		name := names.NormalizeName(s.Name)
		namespace, found := l.namespace(name)
		switch {
		case !found:
			return fmt.Errorf("forbidden sysctl: %q not allowlisted", name)
		case namespace == names.IPCNamespace && pod.Spec.HostIPC, namespace == names.NetNamespace && pod.Spec.HostNetwork:
			return fmt.Errorf("forbidden sysctl: %q not allowed with host %s enabled", name, namespace)
		}
	}
	return nil
}

// namespace is where a listed sysctl belongs to.
func (l *List) namespace(name string) (names.Namespace, bool) {
	if namespace, found := l.names[name]; found {
		return namespace, true
	}
	for beginning, namespace := range l.beginnings {
		if strings.HasPrefix(name, beginning) {
			return namespace, true
		}
	}
	return names.UnknownNamespace, false
}
