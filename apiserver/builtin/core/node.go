package core

import (
	"sort"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	row "github.com/skiff-k8s/skiff/apiserver/resource"
)

func nodes() *row.Resource {
	status := corev1.NodeStatus{}
	info := corev1.NodeSystemInfo{}
	return row.Define[corev1.NodeList](row.Definition[corev1.Node]{
		Version: "v1", Kind: "Node", Plural: "nodes", Prefix: "minions", ShortNames: []string{"no"}, ClusterScoped: true,
		Default:  defaultNode,
		Prepare:  prepareNode,
		Validate: validateNode,
		Warn:     warnNode,
		Fields: map[string]func(*corev1.Node) string{
			"spec.unschedulable": func(n *corev1.Node) string { return strconv.FormatBool(n.Spec.Unschedulable) },
		},
		Columns: []row.Column[*corev1.Node]{
			row.NameColumn[*corev1.Node](),
			table.Text("Status", "The status of the node", nodeStatusColumn),
			table.Text("Roles", "The roles of the node", nodeRoles),
			row.AgeColumn[*corev1.Node](),
			table.Text("Version", table.Doc(info, "kubeletVersion"), func(n *corev1.Node) string { return n.Status.NodeInfo.KubeletVersion }),
			table.Wide(table.Text("Internal-IP", table.Doc(status, "addresses"), nodeAddress(corev1.NodeInternalIP))),
			table.Wide(table.Text("External-IP", table.Doc(status, "addresses"), nodeAddress(corev1.NodeExternalIP))),
			table.Wide(table.Text("OS-Image", table.Doc(info, "osImage"), func(n *corev1.Node) string { return table.Or(n.Status.NodeInfo.OSImage, "<unknown>") })),
			table.Wide(table.Text("Kernel-Version", table.Doc(info, "kernelVersion"), kernelColumn)),
			table.Wide(table.Text("Container-Runtime", table.Doc(info, "containerRuntimeVersion"), func(n *corev1.Node) string {
				return table.Or(n.Status.NodeInfo.ContainerRuntimeVersion, "<unknown>")
			})),
		},
		Subresources: []row.Subresource[corev1.Node]{
			{Name: "proxy", Connect: true, Kind: corev1.SchemeGroupVersion.WithKind("NodeProxyOptions"), Verbs: proxyVerbs},
			{Name: "status", View: true, Prepare: prepareNodeStatus, Validate: validateNodeUpdate},
		},
	})
}

func defaultNode(n *corev1.Node) {
	roundQuantities(n.Status.Capacity)
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	roundQuantities(n.Status.Allocatable)
	defaultPodCIDRs(&n.Spec)
}

// roundQuantities keeps quantities to thousandths, the finest anyone counts.
func roundQuantities(list corev1.ResourceList) {
	for name, quantity := range list {
		quantity.RoundUp(resource.Milli)
		list[name] = quantity
	}
}

// defaultPodCIDRs keeps podCIDR and podCIDRs[0] the same for clients that know
// only one of them.
func defaultPodCIDRs(spec *corev1.NodeSpec) {
	switch {
	case spec.PodCIDR == "" && len(spec.PodCIDRs) > 0:
		spec.PodCIDR = spec.PodCIDRs[0]
	case spec.PodCIDR != "" && (len(spec.PodCIDRs) == 0 || spec.PodCIDRs[0] != spec.PodCIDR):
		spec.PodCIDRs = []string{spec.PodCIDR}
	}
}

// prepareNode lets a new node come with its status, as kubelets send it.
func prepareNode(n, old *corev1.Node) {
	if old == nil {
		n.Spec.ConfigSource, n.Status.Config = nil, nil
		return
	}
	n.Status = *old.Status.DeepCopy()
	if old.Spec.ConfigSource == nil {
		n.Spec.ConfigSource = nil
	}
}

func prepareNodeStatus(n, old *corev1.Node) {
	n.Spec = *old.Spec.DeepCopy()
	if old.Status.Config == nil {
		n.Status.Config = nil
	}
}

func warnNode(n, _ *corev1.Node) []string {
	var warnings []string
	if n.Spec.ConfigSource != nil {
		warnings = append(warnings, "spec.configSource: the feature is removed")
	}
	if n.Spec.DoNotUseExternalID != "" {
		warnings = append(warnings, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	for i, cidr := range n.Spec.PodCIDRs {
		warnings = append(warnings, validation.GetWarningsForCIDR(field.NewPath("spec", "podCIDRs").Index(i), cidr)...)
	}
	return warnings
}

func nodeStatusColumn(n *corev1.Node) string {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		status = "Not" + string(c.Type)
		if c.Status == corev1.ConditionTrue {
			status = string(c.Type)
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func kernelColumn(n *corev1.Node) string {
	info := n.Status.NodeInfo
	if info.KernelVersion != "" && info.Architecture != "" {
		return info.KernelVersion + " (" + info.Architecture + ")"
	}
	return table.Or(info.KernelVersion, "<unknown>")
}

// nodeRoles reads both ways in which labels name roles.
func nodeRoles(n *corev1.Node) string {
	const prefix, single = "node-role.kubernetes.io/", "kubernetes.io/role"
	roles := make(map[string]bool)
	for key, value := range n.Labels {
		if role, ok := strings.CutPrefix(key, prefix); ok && role != "" {
			roles[role] = true
		}
		if key == single && value != "" {
			roles[value] = true
		}
	}
	var list []string
	for role := range roles {
		list = append(list, role)
	}
	sort.Strings(list)
	return table.OrNone(strings.Join(list, ","))
}

func nodeAddress(kind corev1.NodeAddressType) func(*corev1.Node) string {
	return func(n *corev1.Node) string {
		for _, a := range n.Status.Addresses {
			if a.Type == kind {
				return a.Address
			}
		}
		return "<none>"
	}
}
