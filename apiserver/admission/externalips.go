package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// denyServiceExternalIPs lets no Service take external addresses that it does not have (CVE-2020-8554: who may write Services could
// take what others send to any address).
func denyServiceExternalIPs() Plugin {
	return Plugin{Name: "DenyServiceExternalIPs", Validate: func(_ context.Context, a *Attributes) error {
		service, ok := a.New.(*corev1.Service)
		if !ok || a.Verb != create && a.Verb != update || !a.is("", "services") {
			return nil
		}
		var had []string
		if old, ok := a.Old.(*corev1.Service); ok {
			had = old.Spec.ExternalIPs
		}
		for _, ip := range service.Spec.ExternalIPs {
			if !slices.Contains(had, ip) {
				return a.forbid("Use of external IPs is denied by admission control")
			}
		}
		return nil
	}}
}
