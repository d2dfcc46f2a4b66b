package podspec

import (
	"fmt"
	"regexp"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// optional is a field by name and whether it is set.
type optional struct {
	name string
	set  bool
}

func (v *validator) forbidSet(path *field.Path, detail string, list ...optional) {
	for _, f := range list {
		if f.set {
			at := path
			for part := range strings.SplitSeq(f.name, ".") {
				at = at.Child(part)
			}
			v.forbidden(at, detail)
		}
	}
}

// checkOS checks spec.os, and that the pod has nothing of the other system.
func (v *validator) checkOS(path *field.Path) {
	s := v.spec
	switch {
	case s.OS == nil:
	case s.OS.Name == "":
		v.required(path.Child("name"), "")
	case s.OS.Name == v1.Linux:
		v.checkLinux()
	case s.OS.Name == v1.Windows:
		v.checkWindows()
	default:
		oneOf(v, path, s.OS.Name, v1.Linux, v1.Windows)
	}
}

func (v *validator) checkLinux() {
	const detail = "windows options cannot be set for a linux pod"
	if sc := v.spec.SecurityContext; sc != nil && sc.WindowsOptions != nil {
		v.forbidden(v.path.Child("securityContext", "windowsOptions"), detail)
	}
	v.eachContainer(func(c *v1.Container, path *field.Path) {
		if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil {
			v.forbidden(path.Child("securityContext", "windowsOptions"), detail)
		}
	})
}

func (v *validator) checkWindows() {
	const detail = "cannot be set for a windows pod"
	s := v.spec
	if sc := s.SecurityContext; sc != nil {
		v.forbidSet(v.path, detail,
			optional{"securityContext.appArmorProfile", sc.AppArmorProfile != nil},
			optional{"securityContext.seLinuxOptions", sc.SELinuxOptions != nil},
			optional{"hostUsers", s.HostUsers != nil},
			optional{"hostPID", s.HostPID},
			optional{"hostIPC", s.HostIPC},
			optional{"securityContext.seccompProfile", sc.SeccompProfile != nil},
			optional{"securityContext.fsGroup", sc.FSGroup != nil},
			optional{"securityContext.fsGroupChangePolicy", sc.FSGroupChangePolicy != nil},
			optional{"securityContext.sysctls", len(sc.Sysctls) > 0},
			optional{"shareProcessNamespace", s.ShareProcessNamespace != nil},
			optional{"securityContext.runAsUser", sc.RunAsUser != nil},
			optional{"securityContext.runAsGroup", sc.RunAsGroup != nil},
			optional{"securityContext.supplementalGroups", sc.SupplementalGroups != nil},
			optional{"securityContext.supplementalGroupsPolicy", sc.SupplementalGroupsPolicy != nil},
			optional{"securityContext.seLinuxChangePolicy", sc.SELinuxChangePolicy != nil})
	}
	v.eachContainer(func(c *v1.Container, path *field.Path) {
		sc := c.SecurityContext
		if sc == nil {
			return
		}
		v.forbidSet(path.Child("securityContext"), detail,
			optional{"appArmorProfile", sc.AppArmorProfile != nil},
			optional{"seLinuxOptions", sc.SELinuxOptions != nil},
			optional{"seccompProfile", sc.SeccompProfile != nil},
			optional{"capabilities", sc.Capabilities != nil},
			optional{"readOnlyRootFilesystem", sc.ReadOnlyRootFilesystem != nil},
			optional{"privileged", sc.Privileged != nil},
			optional{"allowPrivilegeEscalation", sc.AllowPrivilegeEscalation != nil},
			optional{"procMount", sc.ProcMount != nil},
			optional{"runAsUser", sc.RunAsUser != nil},
			optional{"runAsGroup", sc.RunAsGroup != nil})
	})
}

// checkHostProcess demands that all containers run in the Windows host's
// namespaces or none.
func (v *validator) checkHostProcess() {
	var ofPod *bool
	if sc := v.spec.SecurityContext; sc != nil && sc.WindowsOptions != nil {
		ofPod = sc.WindowsOptions.HostProcess
	}
	all, host := 0, 0
	v.eachContainer(func(c *v1.Container, path *field.Path) {
		all++
		value := ofPod
		if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil && c.SecurityContext.WindowsOptions.HostProcess != nil {
			value = c.SecurityContext.WindowsOptions.HostProcess
			if ofPod != nil && *ofPod != *value {
				v.invalid(path.Child("securityContext", "windowsOptions", "hostProcess"), *value,
					fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *ofPod))
			}
		}
		if value != nil && *value {
			host++
		}
	})
	if host == 0 {
		return
	}
	if host != all {
		v.invalid(v.path, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers")
	}
	if !v.spec.HostNetwork {
		v.invalid(v.path.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers")
	}
}

// The forms of Windows account names.
var (
	controlCharacters = regexp.MustCompile(`[[:cntrl:]]+`)
	netBIOSDomain     = regexp.MustCompile(`^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`)
	dnsDomain         = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$`)
	badUserCharacters = regexp.MustCompile(`["/\\:;|=,\+\*\?<>@\[\]]`)
	dotsAndSpaces     = regexp.MustCompile(`^[\. ]+$`)
)

func (v *validator) checkWindowsOptions(o *v1.WindowsSecurityContextOptions, path *field.Path) {
	const maxSpecKiB = 64
	if o == nil {
		return
	}
	if name := o.GMSACredentialSpecName; name != nil {
		v.messages(path.Child("gmsaCredentialSpecName"), name, validation.IsDNS1123Subdomain(*name))
	}
	if spec := o.GMSACredentialSpec; spec != nil {
		at := path.Child("gmsaCredentialSpec")
		if *spec == "" {
			v.invalid(at, spec, "gmsaCredentialSpec cannot be an empty string")
		} else if len(*spec) > maxSpecKiB<<10 {
			v.invalid(at, spec, fmt.Sprintf("gmsaCredentialSpec size must be under %d KiB", maxSpecKiB))
		}
	}
	if o.RunAsUserName != nil {
		v.messages(path.Child("runAsUserName"), o.RunAsUserName, accountMessages(*o.RunAsUserName))
	}
}

// accountMessages tells what is wrong with a Windows account, DOMAIN\user or
// user.
func accountMessages(name string) []string {
	const maxDomain, maxUser = 256, 104
	domain, user, hasDomain := strings.Cut(name, `\`)
	switch {
	case name == "":
		return []string{"runAsUserName cannot be an empty string"}
	case controlCharacters.MatchString(name):
		return []string{"runAsUserName cannot contain control characters"}
	case strings.Contains(user, `\`):
		return []string{"runAsUserName cannot contain more than one backslash"}
	case !hasDomain:
		domain, user = "", domain
	}
	var messages []string
	if len(domain) >= maxDomain {
		messages = append(messages, fmt.Sprintf("runAsUserName's Domain length must be under %d characters", maxDomain))
	}
	if hasDomain && !netBIOSDomain.MatchString(domain) && !dnsDomain.MatchString(domain) {
		messages = append(messages, "runAsUserName's Domain doesn't match the NetBios nor the DNS format")
	}
	if user == "" {
		messages = append(messages, "runAsUserName's User cannot be empty")
	} else if len(user) > maxUser {
		messages = append(messages, fmt.Sprintf("runAsUserName's User length must not be longer than %d characters", maxUser))
	}
	if dotsAndSpaces.MatchString(user) {
		messages = append(messages, "runAsUserName's User cannot contain only periods or spaces")
	}
	if badUserCharacters.MatchString(user) {
		messages = append(messages, `runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	}
	return messages
}
