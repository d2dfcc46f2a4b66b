package images

import (
	"fmt"
	"regexp"
	"strings"
)

// Name is an image's name taken apart, in the grammar of the distribution project's references.
type Name struct {
	Given  string // as the pod has it, without a default tag
	Domain string // registry host, "docker.io" if the name has none
	Path   string // repository within the registry
	Tag    string // "latest" if neither tag nor digest is given
	Digest string
}

var (
	domainPattern = regexp.MustCompile(`^(?:\[[0-9a-fA-F:]+\]|[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*)(?::[0-9]+)?$`)
	pathPattern   = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern    = regexp.MustCompile(`^\w[\w.-]{0,127}$`)
	digestPattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}$`)
)

// ParseName takes an image name apart.
func ParseName(image string) (Name, error) {
	n := Name{Given: image}
	rest, digest, hasDigest := strings.Cut(image, "@")
	if colon := strings.LastIndexByte(rest, ':'); colon > strings.LastIndexByte(rest, '/') {
		rest, n.Tag = rest[:colon], rest[colon+1:]
		if !tagPattern.MatchString(n.Tag) {
			return Name{}, invalid(image, "")
		}
	}
	if hasDigest {
		n.Digest = digest
		if !digestPattern.MatchString(digest) {
			return Name{}, invalid(image, "")
		}
	} else if n.Tag == "" {
		n.Tag = "latest"
	}

	n.Domain, n.Path = "docker.io", rest
	if host, path, found := strings.Cut(rest, "/"); found && (strings.ContainsAny(host, ".:") || host == "localhost" || strings.ToLower(host) != host) {
		n.Domain, n.Path = host, path
	}
	if n.Domain == "index.docker.io" {
		n.Domain = "docker.io"
	}
	if n.Domain == "docker.io" && !strings.Contains(n.Path, "/") {
		n.Path = "library/" + n.Path
	}
	if strings.ToLower(n.Path) != n.Path {
		return Name{}, invalid(image, fmt.Sprintf(": repository name (%s) must be lowercase", n.Path))
	}
	if !domainPattern.MatchString(n.Domain) || !pathPattern.MatchString(n.Path) {
		return Name{}, invalid(image, "")
	}
	return n, nil
}

func invalid(image, detail string) error {
	return fmt.Errorf("couldn't parse image name %q: invalid reference format%s", image, detail)
}

// String is the name as given, with the default tag if it had neither tag nor digest.
func (n Name) String() string {
	if n.Tag == "latest" && n.Digest == "" && !strings.HasSuffix(n.Given, ":latest") {
		return n.Given + ":latest"
	}
	return n.Given
}

// Repository is the name as given, without tag and digest.
func (n Name) Repository() string {
	name, _, _ := strings.Cut(n.Given, "@")
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		name = name[:colon]
	}
	return name
}

// canonical is one text for all ways to give the name.
func (n Name) canonical() string {
	if n.Digest != "" {
		return n.Domain + "/" + n.Path + "@" + n.Digest
	}
	return n.Domain + "/" + n.Path + ":" + n.Tag
}
