package kubelet

import (
	"errors"
	"fmt"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/skiff-k8s/skiff/kubelet/images"
	"github.com/skiff-k8s/skiff/kubelet/sysctl"
)

// Guard says what pods may use of their node, in the terms of upstream's configuration. The zero value is
// upstream's default.
type Guard struct {
	// ImagePullCredentialsVerificationPolicy says for which images that are on the node a pod has to show that
	// it could pull them; NeverVerifyPreloadedImages if empty: for those that the kubelet pulled.
	ImagePullCredentialsVerificationPolicy string
	// PreloadedImagesVerificationAllowlist are the images that NeverVerifyAllowlistedImages excepts.
	PreloadedImagesVerificationAllowlist []string
	// AllowedUnsafeSysctls are sysctls, or beginnings of their names that end in "*", that pods may set beside
	// the safe ones.
	AllowedUnsafeSysctls []string
}

// Validate says what is wrong with it.
func (g Guard) Validate() error {
	_, err := sysctl.NewList(g.AllowedUnsafeSysctls, "")
	if err != nil {
		err = fmt.Errorf("allowedUnsafeSysctls: %w", err)
	}
	return errors.Join(g.verification().Validate(), err)
}

func (g Guard) verification() images.Verification {
	return images.Verification{
		Policy:  kubeletconfig.ImagePullCredentialsVerificationPolicy(g.ImagePullCredentialsVerificationPolicy),
		Allowed: g.PreloadedImagesVerificationAllowlist,
	}
}
