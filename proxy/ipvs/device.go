package ipvs

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// deviceName is the dummy interface that the addresses of virtual servers lead to.
// It has none of them itself: ten thousand addresses of one interface are a list that
// the kernel walks for each.
const deviceName = "skiff-ipvs"

// settings are what IPVS needs of the kernel, below /proc/sys/net/ipv4/vs.
var settings = []struct{ name, value string }{
	// Flows of IPVS are flows of conntrack, so that they can be masqueraded.
	{"conntrack", "1"},
	// A flow whose endpoint is gone ends at once, and its client's next begins anew.
	{"expire_nodest_conn", "1"},
	// Clients do not stick to endpoints that get no new flows.
	{"expire_quiescent_template", "1"},
}

// aliasPrefix begins the alias of our interface. What follows are the settings that
// were there before, to put back.
const aliasPrefix = "skiff proxy; before: "

// aliasLimit is what the kernel lets an alias be.
const aliasLimit = 255

// findDevice is our interface; nil if there is none.
func findDevice() (netlink.Link, error) {
	link, err := netlink.LinkByName(deviceName)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find the interface %s: %w", deviceName, err)
	}
	if !strings.HasPrefix(link.Attrs().Alias, aliasPrefix) && link.Attrs().Alias != "" {
		return nil, fmt.Errorf("the interface %s is another program's: its alias is %q", deviceName, link.Attrs().Alias)
	}
	return link, nil
}

// makeDevice makes sure of the interface and of the settings. What the settings were
// is written down before they are changed.
func makeDevice() (netlink.Link, error) {
	link, err := findDevice()
	if err != nil {
		return nil, err
	}
	if link == nil {
		link = &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: deviceName}}
		if err := netlink.LinkAdd(link); err != nil {
			return nil, fmt.Errorf("make the interface %s: %w", deviceName, err)
		}
	}
	if link.Attrs().Alias == "" {
		alias, err := settingsNow()
		if err != nil {
			return nil, err
		}
		if err := netlink.LinkSetAlias(link, alias); err != nil {
			return nil, fmt.Errorf("write down the settings of IPVS: %w", err)
		}
	}
	for _, s := range settings {
		if err := os.WriteFile(settingPath(s.name), []byte(s.value), 0o644); err != nil {
			return nil, err
		}
	}
	// Nor does it make itself an address of IPv6.
	err = os.WriteFile("/proc/sys/net/ipv6/conf/"+deviceName+"/addr_gen_mode", []byte("1"), 0o644)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // there may be no IPv6
		return nil, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set the interface %s up: %w", deviceName, err)
	}
	return netlink.LinkByName(deviceName)
}

func settingPath(name string) string { return "/proc/sys/net/ipv4/vs/" + name }

func readSetting(name string) (string, error) {
	value, err := os.ReadFile(settingPath(name))
	return strings.TrimSpace(string(value)), err
}

func settingsNow() (alias string, err error) {
	alias = aliasPrefix
	for _, s := range settings {
		value, err := readSetting(s.name)
		if err != nil {
			return "", err
		}
		alias += s.name + "=" + value + " "
	}
	if alias = strings.TrimSpace(alias); len(alias) > aliasLimit {
		return "", fmt.Errorf("the settings of IPVS are too long to write down: %s", alias)
	}
	return alias, nil
}

// settingsHold reports whether the settings are what IPVS needs.
func settingsHold() (bool, error) {
	for _, s := range settings {
		if value, err := readSetting(s.name); err != nil || value != s.value {
			return false, err
		}
	}
	return true, nil
}

// removeDevice puts the settings back and deletes the interface, with which the
// routes to it go.
func removeDevice(link netlink.Link) error {
	var errs []error
	for setting := range strings.FieldsSeq(strings.TrimPrefix(link.Attrs().Alias, aliasPrefix)) {
		name, value, _ := strings.Cut(setting, "=")
		if !slices.ContainsFunc(settings, func(s struct{ name, value string }) bool { return s.name == name }) {
			continue
		}
		if err := os.WriteFile(settingPath(name), []byte(value), 0o644); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...) // the interface says what they were
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) { // it went meanwhile
		return fmt.Errorf("delete the interface %s: %w", deviceName, err)
	}
	return nil
}

// routed are the addresses with routes of ours to the interface.
func routed(link netlink.Link) (map[netip.Addr]bool, error) {
	addrs := make(map[netip.Addr]bool)
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, LinkIndex: link.Attrs().Index, Protocol: routeProtocol}
		err := netlink.RouteListFilteredIter(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL, func(r netlink.Route) bool {
			if r.Dst != nil {
				if addr, ok := netip.AddrFromSlice(r.Dst.IP); ok {
					addrs[addr.Unmap()] = true
				}
			}
			return true
		})
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("list the routes to %s: %w", deviceName, err)
		}
	}
	return addrs, nil
}
