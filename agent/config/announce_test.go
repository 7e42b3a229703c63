package config

import (
	"strings"
	"testing"
)

func TestAnnounceErrors(t *testing.T) {
	for text, want := range map[string]string{
		`communities: ["65001"]`:                              `announce.communities[0]: "65001" is not a community`,
		`communities: ["65536:1"]`:                            `"65536:1" is not a community`,
		`communities: ["65001:-1"]`:                           `"65001:-1" is not a community`,
		`communities: ["65001:1:2"]`:                          `"65001:1:2" is not a community`,
		`communities: ["65535:65281"]`:                        `community 65535:65281 is of a reserved range (RFC 1997)`,
		`communities: ["0:1"]`:                                `community 0:1 is of a reserved range`,
		`communities: ["1:1", "01:1"]`:                        `announce.communities[1]: 01:1 is given twice`,
		`communities: [` + strings.Repeat(`"1:1",`, 65) + `]`: `65 communities`,
		`large_communities: ["1:2"]`:                          `"1:2" is not a large community`,
		`large_communities: ["4294967296:1:2"]`:               `"4294967296:1:2" is not a large community`,
		`large_communities: ["0:1:2"]`:                        `large community 0:1:2 begins with a reserved AS number (RFC 7607)`,
		`community: ["1:1"]`:                                  `unknown key`,
	} {
		_, err := Load(write(t, small+"announce:\n  "+text+"\n"), nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
