package podspec

import (
	"fmt"
	"regexp"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/node/util/sysctl"
)

func (v *validator) checkUser(id *int64, path *field.Path) {
	if id != nil {
		v.messages(path, *id, validation.IsValidUserID(*id))
	}
}

func (v *validator) checkGroup(id *int64, path *field.Path) {
	if id != nil {
		v.messages(path, *id, validation.IsValidGroupID(*id))
	}
}

func (v *validator) checkPodSecurity(sc *v1.PodSecurityContext, path *field.Path) {
	if sc == nil {
		return
	}
	v.checkGroup(sc.FSGroup, path.Child("fsGroup"))
	v.checkUser(sc.RunAsUser, path.Child("runAsUser"))
	v.checkGroup(sc.RunAsGroup, path.Child("runAsGroup"))
	for i := range sc.SupplementalGroups {
		v.checkGroup(&sc.SupplementalGroups[i], path.Child("supplementalGroups").Index(i))
	}
	if share := v.spec.ShareProcessNamespace; share != nil && *share && v.spec.HostPID {
		v.invalid(path.Child("shareProcessNamespace"), *share, "ShareProcessNamespace and HostPID cannot both be enabled")
	}
	v.checkSysctls(sc.Sysctls, path.Child("sysctls"))
	if sc.FSGroupChangePolicy != nil {
		oneOf(v, path.Child("fsGroupChangePolicy"), *sc.FSGroupChangePolicy, v1.FSGroupChangeAlways, v1.FSGroupChangeOnRootMismatch)
	}
	v.checkSeccomp(sc.SeccompProfile, path.Child("seccompProfile"))
	v.checkWindowsOptions(sc.WindowsOptions, path.Child("windowsOptions"))
	v.checkAppArmor(sc.AppArmorProfile, path.Child("appArmorProfile"))
	if sc.SupplementalGroupsPolicy != nil {
		oneOf(v, path.Child("supplementalGroupsPolicy"), *sc.SupplementalGroupsPolicy, v1.SupplementalGroupsPolicyMerge, v1.SupplementalGroupsPolicyStrict)
	}
	if p := sc.SELinuxChangePolicy; p != nil {
		allowed := []v1.PodSELinuxChangePolicy{v1.SELinuxChangePolicyRecursive}
		if v.opts.AnySELinuxPolicy {
			allowed = []v1.PodSELinuxChangePolicy{v1.SELinuxChangePolicyMountOption, v1.SELinuxChangePolicyRecursive}
		}
		oneOf(v, path.Child("seLinuxChangePolicy"), *p, allowed...)
	}
}

const sysctlForm = `^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`

var sysctlName = regexp.MustCompile(sysctlForm)

func (v *validator) checkSysctls(list []v1.Sysctl, path *field.Path) {
	const longest = 253
	seen := make(map[string]bool)
	for i, s := range list {
		at := path.Index(i).Child("name")
		switch {
		case s.Name == "":
			v.required(at, "")
		case len(s.Name) > longest || !sysctlName.MatchString(s.Name):
			v.invalid(at, s.Name, fmt.Sprintf("must have at most %d characters and match regex %s", longest, sysctlForm))
		case seen[s.Name]:
			v.add(field.Duplicate(at, s.Name))
		}
		seen[s.Name] = true
		if !v.opts.BadSysctls && sharesSysctl(v.spec, s.Name) {
			v.invalid(at, s.Name, fmt.Sprintf("may not be specified when '%s' is true", hostNamespaceOf(s.Name)))
		}
	}
}

// hostNamespaceOf is the field that shares the namespace of a sysctl with the
// host.
func hostNamespaceOf(name string) string {
	switch namespace, _, _ := sysctl.GetNamespace(name); namespace {
	case sysctl.NetNamespace:
		return "hostNetwork"
	case sysctl.IPCNamespace:
		return "hostIPC"
	}
	return ""
}

// sharesSysctl reports whether setting a sysctl in the pod would set it on the
// host.
func sharesSysctl(s *v1.PodSpec, name string) bool {
	host := hostNamespaceOf(name)
	return host == "hostNetwork" && s.HostNetwork || host == "hostIPC" && s.HostIPC
}

func (v *validator) checkSecurity(sc *v1.SecurityContext, path *field.Path) {
	if sc == nil {
		return
	}
	v.checkUser(sc.RunAsUser, path.Child("runAsUser"))
	v.checkGroup(sc.RunAsGroup, path.Child("runAsGroup"))
	if sc.ProcMount != nil {
		oneOf(v, path.Child("procMount"), *sc.ProcMount, v1.DefaultProcMount, v1.UnmaskedProcMount)
		hostUsers := v.spec.HostUsers == nil || *v.spec.HostUsers
		if hostUsers && *sc.ProcMount == v1.UnmaskedProcMount {
			v.invalid(path.Child("procMount"), sc.ProcMount, "`hostUsers` must be false to use `Unmasked`")
		}
	}
	v.checkSeccomp(sc.SeccompProfile, path.Child("seccompProfile"))
	if sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation {
		if sc.Privileged != nil && *sc.Privileged {
			v.invalid(path, Untagged(sc), "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
		}
		if sc.Capabilities != nil {
			for _, c := range sc.Capabilities.Add {
				if c == "CAP_SYS_ADMIN" {
					v.invalid(path, Untagged(sc), "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
				}
			}
		}
	}
	v.checkWindowsOptions(sc.WindowsOptions, path.Child("windowsOptions"))
	v.checkAppArmor(sc.AppArmorProfile, path.Child("appArmorProfile"))
}

func (v *validator) checkSeccomp(p *v1.SeccompProfile, path *field.Path) {
	if p == nil {
		return
	}
	if p.Type == "" {
		v.required(path.Child("type"), "type is required when seccompProfile is set")
	} else {
		oneOf(v, path.Child("type"), p.Type, v1.SeccompProfileTypeLocalhost, v1.SeccompProfileTypeRuntimeDefault, v1.SeccompProfileTypeUnconfined)
	}
	at := path.Child("localhostProfile")
	switch local := p.Type == v1.SeccompProfileTypeLocalhost; {
	case local && p.LocalhostProfile == nil:
		v.required(at, "must be set when seccomp type is Localhost")
	case local:
		v.descending(*p.LocalhostProfile, at)
	case p.LocalhostProfile != nil:
		v.invalid(at, Untagged(p), "can only be set when seccomp type is Localhost")
	}
}

func (v *validator) checkAppArmor(p *v1.AppArmorProfile, path *field.Path) {
	const longest = 4095 // PATH_MAX without the final zero
	if p == nil {
		return
	}
	at := path.Child("localhostProfile")
	switch p.Type {
	case v1.AppArmorProfileTypeLocalhost:
		const missing = "must be set when AppArmor type is Localhost"
		if p.LocalhostProfile == nil {
			v.required(at, missing)
			return
		}
		name := *p.LocalhostProfile
		if name != strings.TrimSpace(name) {
			v.invalid(at, name, "must not be padded with whitespace")
		} else if name == "" {
			v.required(at, missing)
		}
		if len(name) > longest {
			v.add(field.TooLong(at, "", longest))
		}
	case v1.AppArmorProfileTypeRuntimeDefault, v1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			v.invalid(at, p.LocalhostProfile, "can only be set when AppArmor type is Localhost")
		}
	case "":
		v.required(path.Child("type"), "type is required when appArmorProfile is set")
	default:
		oneOf(v, path.Child("type"), p.Type, v1.AppArmorProfileTypeLocalhost, v1.AppArmorProfileTypeRuntimeDefault, v1.AppArmorProfileTypeUnconfined)
	}
}
