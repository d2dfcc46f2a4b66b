package admission

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Choice is which plugins a server has besides, or without, those that are on by default. The names are kube-apiserver's.
type Choice struct {
	Enable, Disable []string
	// File is an AdmissionConfiguration of apiserver.config.k8s.io, which has the configurations of plugins; empty: they have none.
	File string
	// NotReadySeconds and UnreachableSeconds are how long pods stay on nodes that are not ready, or not reachable, if they do not
	// say so themselves; nil: five minutes.
	NotReadySeconds, UnreachableSeconds *int64
}

// AddFlags adds the flags of c.
func (c *Choice) AddFlags(flags *pflag.FlagSet) {
	flags.StringSliceVar(&c.Enable, "enable-admission-plugins", nil, "admission plugins that are off by default: "+strings.Join(off, ", "))
	flags.StringSliceVar(&c.Disable, "disable-admission-plugins", nil, "admission plugins that are on by default and should not be")
	c.NotReadySeconds = flags.Int64("default-not-ready-toleration-seconds", tolerated, "how long pods stay on nodes that are not ready, if they do not say so themselves")
	c.UnreachableSeconds = flags.Int64("default-unreachable-toleration-seconds", tolerated, "how long pods stay on nodes that are not reachable, if they do not say so themselves")
	flags.StringVar(&c.File, "admission-control-config-file", "", "AdmissionConfiguration: the configurations of admission plugins")
}

// off are the plugins that are on only for who asks for them.
var off = []string{"AlwaysAdmit", "AlwaysDeny", "AlwaysPullImages", "DenyServiceExternalIPs", "EventRateLimit", "ExtendedResourceToleration", "ImagePolicyWebhook",
	"LimitPodHardAntiAffinityTopology", "NamespaceAutoProvision", "NamespaceExists", "OwnerReferencesPermissionEnforcement", "PodNodeSelector", "PodTolerationRestriction"}

// always are steps that are no plugins of kube-apiserver: there they are part of storing a kind.
var always = []string{"RoleEscalation"}

// idle are plugins of kube-apiserver, on by default there, for kinds and fields that are not served: they have nothing to do.
var idle = []string{"ClusterTrustBundleAttest", "JobValidation", "PodGroupProtection", "PodGroupWorkloadExists"}

// of is the chain without the plugins that are not chosen.
func (c Choice) of(all Chain) (Chain, error) {
	for flag, names := range map[string][]string{"enable": c.Enable, "disable": c.Disable} {
		for _, name := range names {
			known := slices.ContainsFunc(all, func(p Plugin) bool { return p.Name == name }) && !slices.Contains(always, name)
			if !known && !slices.Contains(idle, name) {
				return nil, fmt.Errorf("%s-admission-plugins plugin %q is unknown", flag, name)
			}
		}
	}
	for _, name := range c.Enable {
		if slices.Contains(c.Disable, name) {
			return nil, fmt.Errorf("[%s] in enable-admission-plugins and disable-admission-plugins overlapped", name)
		}
	}
	return slices.DeleteFunc(all, func(p Plugin) bool {
		return slices.Contains(c.Disable, p.Name) || slices.Contains(off, p.Name) && !slices.Contains(c.Enable, p.Name)
	}), nil
}

// lateError is one that kube-apiserver finds when it has made all plugins.
type lateError struct{ error }

// configure makes the plugins of a chain that depend on a configuration. made are their constructors by name.
func (c Choice) configure(chain Chain, made map[string]func(configuration []byte) (Plugin, error)) (Chain, error) {
	all, err := readConfigurations(c.File)
	if err != nil {
		return nil, fmt.Errorf("failed to apply admission: failed to read plugin config: %w", err)
	}
	for i, p := range chain {
		build := made[p.Name]
		if build == nil {
			continue
		}
		data, err := all.of(p.Name)
		if err != nil {
			return nil, err
		}
		doing := "couldn't init"
		if chain[i], err = build(data); errors.As(err, &lateError{}) {
			doing = "failed to initialize"
		}
		if err != nil {
			return nil, fmt.Errorf("failed to apply admission: %s admission plugin %q: %w", doing, p.Name, err)
		}
	}
	return chain, nil
}
