package images

import (
	"fmt"
	"strings"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// Verification says which images that are on the node already a pod may use without showing that it could
// pull them (KEP-2535). The zero value is upstream's default: those that the kubelet did not pull.
type Verification struct {
	// Policy is NeverVerifyPreloadedImages if empty.
	Policy kubeletconfig.ImagePullCredentialsVerificationPolicy
	// Allowed are the images that NeverVerifyAllowlistedImages excepts: names without tag and digest, or
	// beginnings of names that end in "/*".
	Allowed []string
}

// Validate says what is wrong with it.
func (v Verification) Validate() error {
	switch v.Policy {
	case "", kubeletconfig.NeverVerify, kubeletconfig.NeverVerifyPreloadedImages, kubeletconfig.NeverVerifyAllowlistedImages, kubeletconfig.AlwaysVerify:
	default:
		return fmt.Errorf("option %q specified for imagePullCredentialsVerificationPolicy. Valid options are %q, %q, %q or %q", v.Policy,
			kubeletconfig.NeverVerify, kubeletconfig.NeverVerifyPreloadedImages, kubeletconfig.NeverVerifyAllowlistedImages, kubeletconfig.AlwaysVerify)
	}
	if len(v.Allowed) > 0 && v.Policy != kubeletconfig.NeverVerifyAllowlistedImages {
		return fmt.Errorf("preloadedImagesVerificationAllowlist is for imagePullCredentialsVerificationPolicy %q alone", kubeletconfig.NeverVerifyAllowlistedImages)
	}
	for _, pattern := range v.Allowed {
		if err := validatePattern(pattern); err != nil {
			return fmt.Errorf("image pattern %q in preloadedImagesVerificationAllowlist: %w", pattern, err)
		}
	}
	return nil
}

func validatePattern(pattern string) error {
	beginning, wild := strings.CutSuffix(pattern, "/*")
	switch {
	case strings.TrimSpace(pattern) != pattern:
		return fmt.Errorf("it begins or ends with a blank")
	case beginning == "":
		return fmt.Errorf("it names no registry")
	case strings.Contains(beginning, "*"):
		return fmt.Errorf("only patterns ending with '/*' are allowed")
	case wild:
		return nil
	}
	name, err := ParseName(pattern)
	if err == nil && name.Repository() != pattern {
		err = fmt.Errorf("neither tag nor digest is accepted")
	}
	return err
}

// required says whether a pod must show credentials for an image that is on the node.
func (v Verification) required(image Name, pulledByKubelet bool) bool {
	switch v.Policy {
	case kubeletconfig.NeverVerify:
		return false
	case kubeletconfig.NeverVerifyAllowlistedImages:
		return !v.allowed(image.Repository())
	case "", kubeletconfig.NeverVerifyPreloadedImages:
		return pulledByKubelet
	}
	return true
}

func (v Verification) allowed(repository string) bool {
	for _, pattern := range v.Allowed {
		if beginning, wild := strings.CutSuffix(pattern, "*"); pattern == repository || wild && strings.HasPrefix(repository, beginning) {
			return true
		}
	}
	return false
}
