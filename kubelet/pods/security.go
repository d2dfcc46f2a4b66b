package pods

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What of /proc and /sys containers do not see or may not change unless their procMount is Unmasked.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// namespaces are the namespaces of the pod's sandbox.
func namespaces(pod *v1.Pod) *cri.NamespaceOption {
	options := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}
	if pod.Spec.HostNetwork {
		options.Network = cri.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		options.Ipc = cri.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		options.Pid = cri.NamespaceMode_NODE
	case pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace:
		options.Pid = cri.NamespaceMode_POD
	}
	return options
}

// sandboxSecurity is the security context of the pod's sandbox. Its seccomp profile is always the
// runtime's: the pause process does no more than that allows, whatever the pod's own profile is.
func sandboxSecurity(pod *v1.Pod) *cri.LinuxSandboxSecurityContext {
	sc := &cri.LinuxSandboxSecurityContext{
		NamespaceOptions: namespaces(pod),
		Privileged:       hasPrivileged(pod),
		Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
	}
	if p := pod.Spec.SecurityContext; p != nil {
		sc.RunAsUser = int64Value(p.RunAsUser)
		sc.RunAsGroup = int64Value(p.RunAsGroup)
		sc.SupplementalGroups = groups(p)
		sc.SupplementalGroupsPolicy = groupsPolicy(p)
		sc.SelinuxOptions = selinux(p.SELinuxOptions)
	}
	return sc
}

func hasPrivileged(pod *v1.Pod) bool {
	privileged := func(sc *v1.SecurityContext) bool { return sc != nil && sc.Privileged != nil && *sc.Privileged }
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if privileged(list[i].SecurityContext) {
				return true
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if privileged(pod.Spec.EphemeralContainers[i].SecurityContext) {
			return true
		}
	}
	return false
}

// imageUser is whom the image's configuration runs as.
type imageUser struct {
	uid  *int64
	name string
}

// containerSecurity is the security context of a container: its own settings, else the pod's, else the
// image's. target is the id of the container whose processes an ephemeral container sees, or "".
func containerSecurity(pod *v1.Pod, c *v1.Container, image imageUser, target, seccompRoot string, apparmor bool) (*cri.LinuxContainerSecurityContext, error) {
	podSC, own := pod.Spec.SecurityContext, c.SecurityContext
	if podSC == nil {
		podSC = &v1.PodSecurityContext{}
	}
	if own == nil {
		own = &v1.SecurityContext{}
	}
	user := first(own.RunAsUser, podSC.RunAsUser)
	if err := verifyNonRoot(pod, c, first(own.RunAsNonRoot, podSC.RunAsNonRoot), user, image); err != nil {
		return nil, err
	}

	sc := &cri.LinuxContainerSecurityContext{
		Privileged:               own.Privileged != nil && *own.Privileged,
		ReadonlyRootfs:           own.ReadOnlyRootFilesystem != nil && *own.ReadOnlyRootFilesystem,
		NoNewPrivs:               own.AllowPrivilegeEscalation != nil && !*own.AllowPrivilegeEscalation,
		RunAsUser:                int64Value(user),
		RunAsGroup:               int64Value(first(own.RunAsGroup, podSC.RunAsGroup)),
		SupplementalGroups:       groups(podSC),
		SupplementalGroupsPolicy: groupsPolicy(podSC),
		NamespaceOptions:         namespaces(pod),
		SelinuxOptions:           selinux(first(own.SELinuxOptions, podSC.SELinuxOptions)),
		Capabilities:             capabilities(own.Capabilities),
	}
	if target != "" {
		sc.NamespaceOptions.Pid, sc.NamespaceOptions.TargetId = cri.NamespaceMode_TARGET, target
	}
	if user == nil && image.uid != nil {
		sc.RunAsUser = int64Value(image.uid)
	} else if user == nil {
		sc.RunAsUsername = image.name
	}
	if own.ProcMount == nil || *own.ProcMount != v1.UnmaskedProcMount {
		sc.MaskedPaths, sc.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	var err error
	if sc.Seccomp, err = containerSeccomp(own, podSC, seccompRoot); err != nil {
		return nil, err
	}
	if apparmor && !sc.Privileged {
		sc.Apparmor = apparmorProfile(pod, c, first(own.AppArmorProfile, podSC.AppArmorProfile))
	}
	return sc, nil
}

// verifyNonRoot refuses to run as root a container that must not.
func verifyNonRoot(pod *v1.Pod, c *v1.Container, nonRoot *bool, user *int64, image imageUser) error {
	if nonRoot == nil || !*nonRoot {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", describe(pod), c.Name)
	switch {
	case user != nil && *user == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
	case user != nil:
		return nil
	case image.uid != nil && *image.uid == 0:
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	case image.uid == nil && image.name != "":
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", image.name, where)
	case image.uid == nil:
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	}
	return nil
}

// describe names a pod in messages: name_namespace(uid).
func describe(pod *v1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

func containerSeccomp(own *v1.SecurityContext, pod *v1.PodSecurityContext, root string) (*cri.SecurityProfile, error) {
	if own.Privileged != nil && *own.Privileged {
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}, nil
	}
	return seccomp(first(own.SeccompProfile, pod.SeccompProfile), root)
}

// seccomp is the profile for the runtime. Without one a container is unconfined, as upstream's default is.
func seccomp(p *v1.SeccompProfile, root string) (*cri.SecurityProfile, error) {
	if p == nil {
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}, nil
	}
	switch p.Type {
	case v1.SeccompProfileTypeRuntimeDefault:
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}, nil
	case v1.SeccompProfileTypeLocalhost:
		if p.LocalhostProfile == nil || *p.LocalhostProfile == "" {
			return nil, errors.New("localhostProfile must be set if seccompProfile type is Localhost.")
		}
		return &cri.SecurityProfile{
			ProfileType:  cri.SecurityProfile_Localhost,
			LocalhostRef: filepath.Join(root, filepath.Join("/", *p.LocalhostProfile)),
		}, nil
	default:
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}, nil
	}
}

// apparmorProfile is the profile from the specification, else from the older annotation.
func apparmorProfile(pod *v1.Pod, c *v1.Container, p *v1.AppArmorProfile) *cri.SecurityProfile {
	if p == nil {
		switch value := pod.Annotations[v1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name]; {
		case value == v1.DeprecatedAppArmorBetaProfileNameUnconfined:
			return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
		case strings.HasPrefix(value, v1.DeprecatedAppArmorBetaProfileNamePrefix):
			return &cri.SecurityProfile{
				ProfileType:  cri.SecurityProfile_Localhost,
				LocalhostRef: strings.TrimPrefix(value, v1.DeprecatedAppArmorBetaProfileNamePrefix),
			}
		}
		return nil
	}
	switch p.Type {
	case v1.AppArmorProfileTypeUnconfined:
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
	case v1.AppArmorProfileTypeLocalhost:
		if p.LocalhostProfile != nil {
			return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: *p.LocalhostProfile}
		}
	}
	return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
}

func capabilities(c *v1.Capabilities) *cri.Capability {
	if c == nil {
		return nil
	}
	out := &cri.Capability{}
	for _, name := range c.Add {
		out.AddCapabilities = append(out.AddCapabilities, string(name))
	}
	for _, name := range c.Drop {
		out.DropCapabilities = append(out.DropCapabilities, string(name))
	}
	return out
}

func selinux(o *v1.SELinuxOptions) *cri.SELinuxOption {
	if o == nil {
		return nil
	}
	return &cri.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

func groups(p *v1.PodSecurityContext) []int64 {
	var all []int64
	if p.FSGroup != nil {
		all = append(all, *p.FSGroup)
	}
	return append(all, p.SupplementalGroups...)
}

func groupsPolicy(p *v1.PodSecurityContext) cri.SupplementalGroupsPolicy {
	if p.SupplementalGroupsPolicy != nil && *p.SupplementalGroupsPolicy == v1.SupplementalGroupsPolicyStrict {
		return cri.SupplementalGroupsPolicy_Strict
	}
	return cri.SupplementalGroupsPolicy_Merge
}

func int64Value(v *int64) *cri.Int64Value {
	if v == nil {
		return nil
	}
	return &cri.Int64Value{Value: *v}
}

// first is the first pointer that is set.
func first[T any](pointers ...*T) *T {
	for _, p := range pointers {
		if p != nil {
			return p
		}
	}
	return nil
}

// imageUserOf reads the image's user, which is "", a uid or a name, perhaps with a group.
func imageUserOf(image *cri.Image) imageUser {
	if image == nil {
		return imageUser{}
	}
	if image.Uid != nil {
		return imageUser{uid: &image.Uid.Value}
	}
	name := image.Username
	if uid, err := strconv.ParseInt(name, 10, 64); err == nil {
		return imageUser{uid: &uid}
	}
	if name == "" {
		var root int64
		return imageUser{uid: &root}
	}
	return imageUser{name: name}
}
